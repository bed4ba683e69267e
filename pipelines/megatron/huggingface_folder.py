"""Folders of ``save_pretrained``: their tensors under their names and under ours, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.megatron.flops import parameter_shapes
from pipelines.megatron.huggingface import global_tensor, huggingface_names
from pipelines.megatron.shards import ShardFile, ShardWriter
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.megatron.huggingface import Array
    from pipelines.megatron.spec import ExpertSpec, ModelSpec

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
REMEDY = "fetch or save the model again"


class HuggingFaceTensors(Mapping[str, "Tensor"]):
    """Name -> tensor of a folder of safetensors, in the dtype it is stored in, read one at a time.

    Raises:
        RetraceError: no safetensors, a shard that is missing, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self._files = [ShardFile(folder / file, REMEDY) for file in _files(folder)]
        self._where = {name: file for file in self._files for name in file.names}

    def __getitem__(self, name: str) -> Tensor:
        return self.file(name).tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def file(self, name: str) -> ShardFile:
        """The file that holds a tensor."""
        if name not in self._where:
            raise RetraceError(f"the Hugging Face model lacks {name}: it is damaged, or of another layout")
        return self._where[name]


class GlobalTensors(Mapping[str, "Tensor"]):
    """The tensors of a Llama or Mixtral folder by our global names, joined when they are asked for.

    Attributes:
        fresh: no two look-ups give the same memory.

    Raises:
        RetraceError: a tensor that the config asks for is missing or has another shape, or there is one more.
    """

    fresh = True

    def __init__(self, tensors: HuggingFaceTensors, model: ModelSpec, experts: ExpertSpec | None, vocab_size: int):
        self._tensors, self._model = tensors, model
        self._shapes = parameter_shapes(model, vocab_size, experts)
        expected: set[str] = set()
        for name, shape in self._shapes.items():
            names = huggingface_names(name)
            found = [tensors.file(theirs).shape(theirs) for theirs in names]
            if found[0][1:] != list(shape[1:]) or sum(each[0] for each in found) != shape[0]:
                raise RetraceError(
                    f"{' + '.join(names)} have shape {found}, where config.json asks for {list(shape)}: the config is "
                    "that of another model"
                )
            expected.update(names)
        # Buffers of old versions, which the model computes by itself; a tied head may be written twice.
        tied = set() if model.untie_embeddings_and_output_weights else {"lm_head.weight"}
        known = expected | tied
        if more := [name for name in tensors if name not in known and not name.endswith("rotary_emb.inv_freq")]:
            raise RetraceError(f"the Hugging Face model has {min(more)}, which config.json says nothing of: {REMEDY}")

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._shapes:
            raise KeyError(name)
        tensor: Tensor = global_tensor(name, self._tensors, self._model)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def save_shards(
    out: Path, tensors: Iterable[tuple[str, Tensor | Array]], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write safetensors as Hugging Face names them: one file, or numbered ones with an index."""
    writer = ShardWriter(out, max_shard_bytes).write(tensors)
    if len(writer.shards) == 1:
        writer.name_files(lambda number, count: WEIGHTS)
        return
    weight_map = writer.name_files(lambda number, count: f"model-{number:05d}-of-{count:05d}.safetensors")
    index = {"metadata": {"total_size": writer.total_size}, "weight_map": weight_map}
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read_huggingface_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder.

    Raises:
        RetraceError: missing or damaged.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise RetraceError(f"{folder} has no config.json: give a Hugging Face model folder")
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise RetraceError(f"{file} is not JSON: {REMEDY}") from None
    return config


def _files(folder: Path) -> list[str]:
    if (folder / INDEX).is_file():
        try:
            listed = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            raise RetraceError(f"{folder / INDEX} is damaged: {REMEDY}") from None
        if missing := sorted(file for file in listed if not (folder / file).is_file()):
            raise RetraceError(f"{folder / missing[0]} is missing, though {INDEX} lists it: {REMEDY}")
        return sorted(listed)
    files = sorted(file.name for file in folder.glob("model*.safetensors"))
    if not files:
        raise RetraceError(f"{folder} has no model*.safetensors: save the model with save_pretrained")
    return files
