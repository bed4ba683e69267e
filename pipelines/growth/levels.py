"""Multi-level training's maps between a model and one half as deep or wide, and back (V-cycle).

Paper: A Multi-Level Framework for Accelerating Training Transformer Models (arXiv 2404.07999). Coalescing makes of a
group of adjacent layers their mean, and of a group of units (residual dimensions, feed-forward units, whole query
groups) one: the mean of what writes into them, the sum of what reads from them. De-coalescing copies layers and units,
and halves what reads from a pair; so coalescing a de-coalesced model gives it back. Interpolation is
W <- (1 - a) W_before + a W_decoalesced.

Deviations: unit i is grouped with i + d, not with i + 1, so that old units come first as in every growth here. Ours has
RMSNorm: gains are units as others are, and with tied embeddings the last gain also takes the factor that the output
layer would (de-coalescing in width is then exact, see the tests).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.growth.depth import layer_of
from pipelines.growth.slices import Shape
from pipelines.megatron.spec import ExpertSpec, ModelSpec
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

FINAL_NORM = "decoder.final_layernorm.weight"
WIDTHS = ("hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups")


def coalesced_shape(shape: Shape, depth: int, width: int) -> Shape:
    """Shape of the coalesced model.

    Args:
        depth, width: layers and units that become one.

    Raises:
        RetraceError: names the size that is not divisible.
    """
    values = shape.model.model_dump()
    for key, factor in (("num_layers", depth), *((key, width) for key in WIDTHS)):
        if factor < 1 or values[key] % factor:
            raise RetraceError(f"model.{key} is {values[key]}, which {factor} does not divide: choose another factor")
        values[key] //= factor
    experts = shape.experts
    if experts is not None:
        if experts.moe_ffn_hidden_size % width:
            raise RetraceError(
                f"experts.moe_ffn_hidden_size is {experts.moe_ffn_hidden_size}, which {width} does not divide: choose "
                "another factor"
            )
        experts = _of_width(experts, experts.moe_ffn_hidden_size // width)
    return Shape(ModelSpec.model_validate(values), experts)


def decoalesced_shape(shape: Shape, depth: int, width: int) -> Shape:
    """Shape of the de-coalesced model.

    Raises:
        RetraceError: a factor below 1.
    """
    if depth < 1 or width < 1:
        raise RetraceError(f"depth and width must be at least 1, got {depth} and {width}")
    model = shape.model.model_dump()
    model |= {key: width * model[key] for key in WIDTHS} | {"num_layers": depth * shape.model.num_layers}
    experts = shape.experts and _of_width(shape.experts, width * shape.experts.moe_ffn_hidden_size)
    return Shape(ModelSpec.model_validate(model), experts)


def coalesce(tensors: Mapping[str, Tensor], shape: Shape, depth: int, width: int) -> Iterator[tuple[str, Tensor]]:
    """(global name, tensor) of the coalesced model, in the base's dtype.

    Args:
        shape: of the model to coalesce.
    """
    tied = not shape.model.untie_embeddings_and_output_weights

    def layer(number: int, suffix: str) -> Tensor:
        group = (tensors[f"decoder.layers.{depth * number + each}.{suffix}"] for each in range(depth))
        total = next(group).clone()
        for each in group:
            total += each
        return total / depth if depth > 1 else total

    def narrow(name: str, tensor: Tensor) -> Tensor:
        tensor = _fold(name, tensor, width)
        return tensor * width if tied and name == FINAL_NORM else tensor

    yield from _layer_by_layer(tensors, shape.model.num_layers // depth, layer, narrow)


def decoalesce(tensors: Mapping[str, Tensor], shape: Shape, depth: int, width: int) -> Iterator[tuple[str, Tensor]]:
    """(global name, tensor) of the de-coalesced model, in the base's dtype.

    Args:
        shape: of the model to de-coalesce.
    """
    tied = not shape.model.untie_embeddings_and_output_weights

    def widen(name: str, tensor: Tensor) -> Tensor:
        tensor = _unfold(name, tensor, width)
        return tensor / width if tied and name == FINAL_NORM else tensor

    def layer(number: int, suffix: str) -> Tensor:
        return tensors[f"decoder.layers.{number // depth}.{suffix}"]

    yield from _layer_by_layer(tensors, shape.model.num_layers * depth, layer, widen)


def interpolate(
    before: Mapping[str, Tensor], decoalesced: Mapping[str, Tensor], coefficient: float
) -> Iterator[tuple[str, Tensor]]:
    """(global name, (1 - a) before + a de-coalesced) in ``before``'s dtype.

    Raises:
        RetraceError: a coefficient outside 0 to 1, or models of different parameters.
    """
    if not 0 <= coefficient <= 1:
        raise RetraceError(f"interpolation_coeff must be between 0 and 1, got {coefficient}")
    if different := set(before) ^ set(decoalesced):
        raise RetraceError(f"only one of the two models has {min(different)}: give models of one architecture")
    for name in before:
        old, new = before[name], decoalesced[name]
        if old.shape != new.shape:
            sizes = f"{list(old.shape)} before and {list(new.shape)} after"
            raise RetraceError(f"{name} is {sizes}: give models of one size")
        yield name, (1 - coefficient) * old + coefficient * new.to(old.dtype)


def _of_width(experts: ExpertSpec, width: int) -> ExpertSpec:
    return experts.model_copy(update={"moe_ffn_hidden_size": width})


def _layer_by_layer(
    tensors: Mapping[str, Tensor],
    num_layers: int,
    layer: Callable[[int, str], Tensor],
    change: Callable[[str, Tensor], Tensor],
) -> Iterator[tuple[str, Tensor]]:
    """All parameters in the model's order: those outside the layers once, and each of ``num_layers``."""
    suffixes = [name.split(".", 3)[3] for name in tensors if layer_of(name) == 0]
    done = False
    for name in tensors:
        if layer_of(name) is None:
            yield name, change(name, tensors[name].clone())
        elif not done:
            done = True
            for number in range(num_layers):
                for suffix in suffixes:
                    renamed = f"decoder.layers.{number}.{suffix}"
                    yield renamed, change(renamed, layer(number, suffix).clone())


def _blocks(name: str) -> int:
    """In how many blocks a parameter's rows are units; 0 where they are tokens or experts."""
    if name.startswith(("embedding.", "output_layer.")) or ".router." in name:
        return 0
    return 2 if name.endswith("linear_fc1.weight") else 1


def _fold(name: str, tensor: Tensor, width: int) -> Tensor:
    if blocks := _blocks(name):
        # Query groups are the outermost of a fused matrix's rows, so a group of them is a block of rows too.
        tensor = tensor.reshape(blocks, width, tensor.shape[0] // (blocks * width), -1).mean(1).flatten(0, 1)
        tensor = tensor.squeeze(-1) if name.endswith("norm.weight") else tensor
    if tensor.dim() == 2:
        columns = tensor.view(len(tensor), width, -1)
        # The embedding's columns are written to, all others read from.
        tensor = columns.mean(1) if name.startswith("embedding.") else columns.sum(1)
    return tensor


def _unfold(name: str, tensor: Tensor, width: int) -> Tensor:
    if blocks := _blocks(name):
        rows = tensor.reshape(blocks, 1, tensor.shape[0] // blocks, -1).repeat(1, width, 1, 1).flatten(0, 2)
        tensor = rows.squeeze(-1) if name.endswith("norm.weight") else rows
    if tensor.dim() == 2:
        tensor = tensor.repeat(1, width)
        tensor = tensor if name.startswith("embedding.") else tensor / width
    return tensor
