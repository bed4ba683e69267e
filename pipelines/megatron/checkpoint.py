"""Layout-free checkpoints: a folder of safetensors under global, unsharded names, in float32, with config.json.

Any layout loads it, growth rewrites it tensor by tensor, the export renames it. ``config.json`` is written last:
a folder without it is not a checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.megatron.shards import ShardFile, ShardWriter
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "retrace-megatron-1"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
OPTIMIZER_INDEX = "optimizer.safetensors.index.json"
FACTORS_INDEX = "factors.safetensors.index.json"
MAX_SHARD_BYTES = 2**30
REQUIRED = ("model", "experts", "vocab_size")


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a checkpoint, after a look that the folder is whole.

    Returns:
        {"format", "model", "experts", "moe_method", "vocab_size", "tokenizer_key", "tokens_seen", "flops_spent"}.

    Raises:
        RetraceError: missing, of another format, or half-written.
    """
    file = path / CONFIG
    if not file.is_file():
        raise RetraceError(f"{path} is not a Retrace checkpoint (no {CONFIG}): give the folder of a training job")
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise RetraceError(f"{file} is not JSON: the checkpoint is damaged, train it again") from None
    if config.get("format") != FORMAT:
        raise RetraceError(f"{file}: format is {config.get('format')!r}, not {FORMAT!r}: not a Retrace checkpoint")
    if lacking := [key for key in REQUIRED if key not in config]:
        raise RetraceError(f"{file} lacks {', '.join(lacking)}: the checkpoint is damaged, train it again")
    _weight_map(path)
    return config


def read_optimizer(path: Path, name: str) -> tuple[int, LazyTensors]:
    """AdamW's state beside a checkpoint's weights.

    Args:
        name: the input's name, for messages.

    Returns:
        updates behind it, and tensors by ``exp_avg/<global name>`` and ``exp_avg_sq/<global name>``.

    Raises:
        RetraceError: the checkpoint has none, or it is damaged.
    """
    read_config(path)
    index = path / OPTIMIZER_INDEX
    if not index.is_file():
        raise RetraceError(
            f"--{name} has no optimizer state ({path} has no {OPTIMIZER_INDEX}): train it with "
            "training.save_optim: true, or choose optimizer_policy: fresh"
        )
    try:
        step = int(json.loads(index.read_text(encoding="utf-8"))["metadata"]["step"])
    except (ValueError, KeyError):
        raise RetraceError(f"{index} is damaged: train the checkpoint again") from None
    return step, LazyTensors(path, _weight_map(path, OPTIMIZER_INDEX))


def read_factors(path: Path) -> LazyTensors:
    """What the weights beside it were composed of, by global name; indices are int64.

    Raises:
        RetraceError: as ``read_config``, or the model was not trained in factors.
    """
    read_config(path)
    if not (path / FACTORS_INDEX).is_file():
        raise RetraceError(f"{path} has no {FACTORS_INDEX}: its model was trained in dense weights")
    return LazyTensors(path, _weight_map(path, FACTORS_INDEX))


def read_tensors(path: Path, framework: str = "pt") -> LazyTensors:
    """The tensors of a checkpoint by global name, each read from disk when it is asked for.

    Args:
        framework: ``pt``, or ``numpy`` for arrays, which need no torch.

    Raises:
        RetraceError: as ``read_config``.
    """
    read_config(path)
    return LazyTensors(path, _weight_map(path), framework)


class LazyTensors(Mapping[str, "Tensor"]):
    """Global name -> float32 tensor (int64 where it holds indices), read from the shards into memory of its own.

    Attributes:
        fresh: no two look-ups give the same memory.
    """

    fresh = True

    def __init__(self, path: Path, weight_map: dict[str, str], framework: str = "pt") -> None:
        self._path, self._weight_map, self._framework = path, weight_map, framework
        self._open: dict[str, ShardFile] = {}

    def __getitem__(self, name: str) -> Tensor:
        shard = self._shard(self._weight_map[name])
        # Whoever asks for arrays knows that they are.
        return shard.tensor(name) if self._framework == "pt" else shard.array(name)  # type: ignore[return-value]

    def __contains__(self, name: object) -> bool:
        # The inherited one would read the tensor.
        return name in self._weight_map

    def __iter__(self) -> Iterator[str]:
        return iter(self._weight_map)

    def __len__(self) -> int:
        return len(self._weight_map)

    def shape(self, name: str) -> list[int]:
        """Shape of a tensor, from the shard's header alone."""
        return self._shard(self._weight_map[name]).shape(name)

    def _shard(self, file: str) -> ShardFile:
        if file not in self._open:
            shard = ShardFile(self._path / file, "train the checkpoint again")
            here = (name for name, where in self._weight_map.items() if where == file)
            if lost := set(here) - set(shard.names):
                raise RetraceError(f"{shard.path} lacks {min(lost)}: the checkpoint is not whole, train it again")
            self._open[file] = shard
        return self._open[file]


def write_checkpoint(
    out: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a checkpoint into an existing folder, a tensor at a time.

    Args:
        config: as ``read_config`` returns; ``format`` is added.
        tensors: by global name, in the order they are to be stored.
    """
    _write_shards(out, INDEX, tensors, max_shard_bytes, {})
    _write_json(out / CONFIG, {"format": FORMAT, **config})


def write_optimizer(
    out: Path, step: int, moments: Iterable[tuple[str, Tensor]], *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write AdamW's state beside weights that are still to come, as ``read_optimizer`` reads it.

    Args:
        step: updates behind it.
        moments: (``exp_avg/<global name>`` or ``exp_avg_sq/<global name>``, tensor).
    """
    _write_shards(out, OPTIMIZER_INDEX, moments, max_shard_bytes, {"step": step})


def write_factors(out: Path, factors: Iterable[tuple[str, Tensor]], *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write what weights that are still to come are composed of, as ``read_factors`` reads it."""
    _write_shards(out, FACTORS_INDEX, factors, max_shard_bytes, {})


def _write_shards(
    out: Path,
    index: str,
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    max_shard_bytes: int,
    metadata: dict[str, int],
) -> None:
    import torch

    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    writer = ShardWriter(out, max_shard_bytes).write(
        (name, each.detach().to(torch.float32 if each.is_floating_point() else each.dtype)) for name, each in pairs
    )
    stem = index.split(".")[0]
    weight_map = writer.name_files(lambda number, count: f"{stem}-{number:05d}-of-{count:05d}.safetensors")
    _write_json(out / index, {"metadata": {"total_size": writer.total_size, **metadata}, "weight_map": weight_map})


def in_order(names: Iterable[str]) -> list[str]:
    """Global names in the model's order: embedding, layers by number, final norm, head."""
    stages = {"embedding": 0, "decoder": 1, "output_layer": 2}

    def rank(name: str) -> tuple[int, list[tuple[int, int, str]]]:
        parts = [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"\.", name)]
        return stages.get(name.split(".")[0], 3), parts

    return sorted(names, key=rank)


def _weight_map(path: Path, name: str = INDEX) -> dict[str, str]:
    index = path / name
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError):
        raise RetraceError(f"{index} is missing or damaged: the checkpoint is not whole, train it again") from None
    for shard in sorted(set(weight_map.values())):
        if not (path / shard).is_file():
            raise RetraceError(f"{path / shard} is missing: the checkpoint is not whole, train it again")
    return weight_map


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
