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

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "retrace-megatron-1"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
OPTIMIZER_INDEX = "optimizer.safetensors.index.json"
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
    """Global name -> float32 tensor, mapped from the shards."""

    def __init__(self, path: Path, weight_map: dict[str, str], framework: str = "pt") -> None:
        self._path, self._weight_map, self._framework = path, weight_map, framework
        self._open: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._shard(self._weight_map[name]).get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._weight_map)

    def __len__(self) -> int:
        return len(self._weight_map)

    def shape(self, name: str) -> list[int]:
        """Shape of a tensor, from the shard's header alone."""
        shape: list[int] = self._shard(self._weight_map[name]).get_slice(name).get_shape()
        return shape

    def _shard(self, shard: str) -> Any:
        if shard not in self._open:
            from safetensors import SafetensorError, safe_open

            try:
                self._open[shard] = safe_open(self._path / shard, framework=self._framework)
            except SafetensorError as broken:
                raise RetraceError(f"{self._path / shard} is damaged ({broken}): train the checkpoint again") from None
        return self._open[shard]


def write_checkpoint(
    out: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a checkpoint into an existing folder, holding one shard in memory at a time.

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


def _write_shards(
    out: Path,
    index: str,
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    max_shard_bytes: int,
    metadata: dict[str, int],
) -> None:
    import torch
    from safetensors.torch import save_file

    shards: list[dict[str, Tensor]] = [{}]
    written: list[list[str]] = []
    size = total = 0

    def flush() -> None:
        save_file(shards[0], out / f"shard-{len(written)}.partial", metadata={"format": "pt"})
        written.append(list(shards[0]))
        shards[0] = {}

    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else tensors:
        whole = tensor.detach().to("cpu", torch.float32).contiguous()
        if shards[0] and size + whole.nbytes > max_shard_bytes:
            flush()
            size = 0
        # A tensor may share memory with another (tied or sliced); the file holds each on its own.
        shards[0][name] = whole.clone() if whole.data_ptr() == tensor.data_ptr() else whole
        size, total = size + whole.nbytes, total + whole.nbytes
    flush()
    weight_map = {}
    for number, names in enumerate(written):
        shard = f"{index.split('.')[0]}-{number + 1:05d}-of-{len(written):05d}.safetensors"
        (out / f"shard-{number}.partial").rename(out / shard)
        weight_map.update(dict.fromkeys(names, shard))
    _write_json(out / index, {"metadata": {"total_size": total, **metadata}, "weight_map": weight_map})


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
