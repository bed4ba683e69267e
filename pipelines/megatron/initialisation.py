"""Global parameter names, and weights that depend on the seed and the name alone, never on the layout."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import pipelines.megatron.backend  # noqa: F401  (before megatron.core, which it adapts)

# isort: split
from megatron.core import parallel_state

from pipelines.megatron.seeds import seed_of
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.megatron.model import Gpt

EMBEDDING = "embedding.word_embeddings.weight"
HEAD = "output_layer.weight"
_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.local_experts\.(\d+)\.")
_OUTPUT_PROJECTIONS = ("linear_proj.weight", "linear_fc2.weight")


def global_names(model: Gpt) -> dict[str, str]:
    """This rank's parameter names -> the names they have in the whole, unsharded model.

    Layers are counted from the first stage, experts from the first expert-parallel rank; a head tied to the
    embedding of another stage carries the embedding's name.
    """
    return {name: global_name(model, name) for name, _ in model.named_parameters()}


def global_name(model: Gpt, name: str) -> str:
    """The name in the whole, unsharded model of what this rank calls ``name``."""
    if name == HEAD and model.share_embeddings_and_output_weights:
        return EMBEDDING
    layer = _LAYER.match(name)
    if layer is None:
        return name
    number = model.decoder.layers[int(layer[1])].layer_number - 1
    name = f"decoder.layers.{number}.{name[layer.end() :]}"
    experts_before = parallel_state.get_expert_model_parallel_rank() * _experts_here(model)
    return _EXPERT.sub(lambda expert: f".experts.local_experts.{int(expert[1]) + experts_before}.", name)


def is_expert(global_name: str) -> bool:
    """Whether a parameter belongs to one routed expert (and so lives on one expert-parallel rank)."""
    return _EXPERT.search(global_name) is not None


@torch.no_grad()  # type: ignore[untyped-decorator]
def initialise(model: Gpt, seed: int, std: float, initial: Mapping[str, Tensor] | None = None) -> None:
    """Fill every parameter in place.

    Norm gains are 1; matrices are normal(0, std), those that write to the residual stream (attention projection,
    second feed-forward) normal(0, std / sqrt(2 num_layers)), as in Megatron. A parameter with an attribute
    ``initialise(tensor, generator)`` is filled by it.

    Raises:
        RetraceError: ``initial`` lacks a parameter or has one of another shape.
    """
    parameters = dict(model.named_parameters())
    for local, name in global_names(model).items():
        parameter = parameters[local]
        if initial is not None:
            parameter.copy_(given_tensor(initial, name, parameter, "the initial weights"))
            continue
        generator = torch.Generator().manual_seed(seed_of(seed, name))
        if (own := getattr(parameter, "initialise", None)) is not None:
            fresh = torch.empty(parameter.shape)
            own(fresh, generator)
            parameter.copy_(fresh)
        elif name.endswith("norm.weight"):
            parameter.fill_(1.0)
        else:
            scale = 1 / math.sqrt(2 * model.config.num_layers) if name.endswith(_OUTPUT_PROJECTIONS) else 1.0
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std * scale, generator=generator))


def given_tensor(tensors: Mapping[str, Tensor], name: str, like: Tensor, what: str) -> Tensor:
    """A tensor by global name, checked against what it is to fill.

    Args:
        what: whose tensors these are, for messages.

    Raises:
        RetraceError: no such tensor, or one of another shape.
    """
    if name not in tensors:
        raise RetraceError(f"{what} lack {name}: the model's spec and the checkpoint do not agree")
    tensor = tensors[name]
    if tensor.shape != like.shape:
        raise RetraceError(
            f"{what} have {name} as {list(tensor.shape)} where the model's spec makes it "
            f"{list(like.shape)}: give the spec the checkpoint's sizes"
        )
    return tensor


def _experts_here(model: Gpt) -> int:
    experts = model.config.num_moe_experts
    return experts // parallel_state.get_expert_model_parallel_world_size() if experts else 0
