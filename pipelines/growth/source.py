"""What can be grown: a checkpoint of ours, or a Hugging Face folder of a Llama or Mixtral, seen alike.

Either is a shape and a mapping from global names to tensors, read one at a time; what is written is of the same kind.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipelines.growth.slices import Shape
from pipelines.megatron.checkpoint import CONFIG, in_order, read_config, read_tensors, write_checkpoint
from pipelines.megatron.flops import parameter_shapes
from pipelines.megatron.huggingface import model_spec_of, to_huggingface
from pipelines.megatron.huggingface_folder import (
    GlobalTensors,
    HuggingFaceTensors,
    read_huggingface_config,
    save_shards,
)
from pipelines.megatron.shards import SIZES
from pipelines.megatron.spec import ExpertSpec, ModelSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import RUN_RECORD
from pipelines.runs.job import METRICS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf")


@dataclass(frozen=True)
class Source:
    """A model on disk, found whole.

    Attributes:
        kind: ``retrace`` or ``huggingface``.
        config: its config.json.
        shape: in our words.
        tensors: global name -> tensor.
        dtype: of its weights, in safetensors' words.
        moe_method: name of the method that its routers are of; None for a dense model.
    """

    path: Path
    kind: Literal["retrace", "huggingface"]
    config: dict[str, Any]
    shape: Shape
    vocab_size: int
    tensors: Mapping[str, Tensor]
    dtype: str

    @property
    def moe_method(self) -> str | None:
        """Name of the method of its routers; None for a dense model."""
        if self.shape.experts is None:
            return None
        name: str = (self.config.get("moe_method") or {}).get("name", "topk")
        return name

    @property
    def bytes_a_number(self) -> int:
        """Bytes of a stored weight."""
        return SIZES[self.dtype]


def open_source(path: Path) -> Source:
    """Open a model to grow, and look that it is whole, without reading a weight.

    Raises:
        RetraceError: neither kind of folder, another architecture, or a folder that lacks something.
    """
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except OSError:
        raise RetraceError(
            f"--input {path} has no {CONFIG}: give the folder of a checkpoint, or of a Hugging Face model"
        ) from None
    except ValueError:
        raise RetraceError(f"{path / CONFIG} is not JSON: the checkpoint is damaged, make it again") from None
    if isinstance(config, dict) and "format" not in config and "model_type" in config:
        return _open_huggingface(path)
    return _open_checkpoint(path)


def write_grown(out: Path, source: Source, target: Shape, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write the grown model as a folder of the source's kind, a tensor at a time.

    Args:
        tensors: (global name, tensor).

    Raises:
        RetraceError: the config has something for each layer that cannot be grown.
    """
    if source.kind == "retrace":
        grown = {
            **source.config,
            # The grown weights are dense, whatever form the base was trained in.
            "pretrain_method": None,
            "model": target.model.model_dump(mode="json"),
            "experts": target.experts and target.experts.model_dump(mode="json"),
        }
        write_checkpoint(out, grown, tensors)
        return
    config = grown_config(source, target)
    save_shards(out, to_huggingface(tensors, target.model))  # type: ignore[arg-type]
    for file in sorted(source.path.iterdir()):
        # The tokenizer and whatever else lies beside the weights.
        ours = file.name in (CONFIG, RUN_RECORD, METRICS)
        if file.is_file() and not ours and not file.name.endswith(WEIGHT_SUFFIXES):
            shutil.copyfile(file, out / file.name)
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def grown_config(source: Source, target: Shape) -> dict[str, Any]:
    """The grown model's config.json in Hugging Face's words: the base's, with the sizes that growth changes."""
    model, config = target.model, dict(source.config)
    width = target.experts.moe_ffn_hidden_size if target.experts else model.ffn_hidden_size
    config |= {
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "intermediate_size": width,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "rms_norm_eps": model.layernorm_epsilon,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
    }
    if target.experts:
        config["num_local_experts"] = target.experts.num_moe_experts
    if config.get("head_dim") is not None:
        config["head_dim"] = target.head_size
    if (kinds := config.get("layer_types")) is not None:
        if len(set(kinds)) != 1:
            raise RetraceError("config.json: layer_types has layers of several kinds: such a model cannot be grown")
        config["layer_types"] = kinds[:1] * model.num_layers
    return config


def _open_checkpoint(path: Path) -> Source:
    config = read_config(path)
    experts = config["experts"]
    shape = Shape(ModelSpec.model_validate(config["model"]), experts and ExpertSpec.model_validate(experts))
    tensors = read_tensors(path)
    topk = shape.experts is None or (config.get("moe_method") or {}).get("name", "topk") == "topk"
    expected = parameter_shapes(shape.model, config["vocab_size"], shape.experts)
    for name, size in expected.items():
        if name in tensors:
            if tensors.shape(name) != list(size):
                raise RetraceError(
                    f"{path}: {name} is {tensors.shape(name)} where {CONFIG} asks for {list(size)}: the config is that "
                    "of another model, train the checkpoint again"
                )
        # Other routers have other parameters.
        elif topk or ".mlp.router." not in name:
            raise RetraceError(f"{path} lacks {name}: the checkpoint is not whole, train it again")
    if topk and (more := set(tensors) - expected.keys()):
        raise RetraceError(
            f"{path} has {in_order(more)[0]}, which {CONFIG} says nothing of: train the checkpoint again"
        )
    return Source(path, "retrace", config, shape, config["vocab_size"], tensors, "F32")


def _open_huggingface(path: Path) -> Source:
    config = read_huggingface_config(path)
    try:
        model_values, expert_values = model_spec_of(config)
        vocab_size = config["vocab_size"]
    except KeyError as missing:
        raise RetraceError(f"{path / CONFIG} lacks {missing.args[0]}: fetch or save the model again") from None
    experts = ExpertSpec.model_validate(expert_values) if expert_values else None
    shape = Shape(ModelSpec.model_validate(model_values), experts)
    files = HuggingFaceTensors(path)
    tensors = GlobalTensors(files, shape.model, experts, vocab_size)
    dtype = files.file("model.embed_tokens.weight").dtype("model.embed_tokens.weight")
    return Source(path, "huggingface", config, shape, vocab_size, tensors, dtype)
