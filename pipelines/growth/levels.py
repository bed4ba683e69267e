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

from pipelines.growth.depth import LAYER, layered
from pipelines.growth.slices import Shape
from pipelines.growth.width import Widening, widened_experts
from pipelines.megatron.spec import WIDTHS, ModelSpec
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

FINAL_NORM = "decoder.final_layernorm.weight"


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
        experts = experts.model_copy(update={"moe_ffn_hidden_size": experts.moe_ffn_hidden_size // width})
    return Shape(ModelSpec.model_validate(values), experts)


def decoalesced_shape(shape: Shape, depth: int, width: int) -> Shape:
    """Shape of the de-coalesced model.

    Raises:
        RetraceError: a factor below 1.
    """
    if depth < 1 or width < 1:
        raise RetraceError(f"depth and width must be at least 1, got {depth} and {width}")
    wide = Widening(shape.model, width, "groups").target()
    experts = shape.experts and widened_experts(shape.experts, width)
    return Shape(wide.model_copy(update={"num_layers": depth * wide.num_layers}), experts)


def coalesce(tensors: Mapping[str, Tensor], shape: Shape, depth: int, width: int) -> Iterator[tuple[str, Tensor]]:
    """(global name, tensor) of the coalesced model, in the base's dtype.

    Args:
        shape: of the model to coalesce.
    """
    tied = not shape.model.untie_embeddings_and_output_weights

    for name, source in layered(tensors, range(0, shape.model.num_layers, depth)):
        tensor = _fold(name, _mean_of_layers(tensors, source, depth), width)
        yield name, tensor * width if tied and name == FINAL_NORM else tensor


def decoalesce(tensors: Mapping[str, Tensor], shape: Shape, depth: int, width: int) -> Iterator[tuple[str, Tensor]]:
    """(global name, tensor) of the de-coalesced model, in the base's dtype.

    Args:
        shape: of the model to de-coalesce.
    """
    tied = not shape.model.untie_embeddings_and_output_weights

    widening = Widening(shape.model, width, "groups")
    for name, source in layered(tensors, [layer // depth for layer in range(depth * shape.model.num_layers)]):
        tensor = widening.repeated(name, tensors[source])
        # All but the embedding, whose columns are written to, is read from by its columns.
        reads = tensor.dim() == 2 and not name.startswith("embedding.")
        yield name, tensor.div_(width) if reads or (tied and name == FINAL_NORM) else tensor


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


def _mean_of_layers(tensors: Mapping[str, Tensor], name: str, depth: int) -> Tensor:
    """A parameter's mean over the layer it is named in and those that follow; of one outside the layers, itself."""
    match = LAYER.match(name)
    if match is None or depth == 1:
        return tensors[name]
    first, suffix = int(match[1]), match[2]
    total = tensors[name].clone()
    for layer in range(first + 1, first + depth):
        total += tensors[f"decoder.layers.{layer}.{suffix}"]
    return total / depth


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
