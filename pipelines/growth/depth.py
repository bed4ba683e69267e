"""Growth in depth by an index list: layer i of the grown model is a copy of layer ``stacking_list[i]`` of the base.

One list covers stacking ([0..l-1] * g), interpolation ([0] * g + [1] * g + ...), partial stacking and upscaling
(arXiv 2405.15319, algorithm 1 and appendix on connection rate).
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from pipelines.megatron.spec import ModelSpec

OUTPUT_PROJECTIONS = ("linear_proj.weight", "linear_fc2.weight")
"""What writes into the residual stream; experts' own too."""
LAYER = re.compile(r"^decoder\.layers\.(\d+)\.(.+)$")


def check_stacking_list(stacking_list: Sequence[int], num_layers: int) -> None:
    """Refuse a list that is empty, names layers the base lacks, makes the model shallower, or loses a layer.

    Raises:
        RetraceError: names the offending entry.
    """
    if wrong := sorted({index for index in stacking_list if not 0 <= index < num_layers}):
        raise RetraceError(
            f"method.stacking_list: index {wrong[0]} is out of range, the base has layers 0 to {num_layers - 1}"
        )
    if len(stacking_list) < num_layers:
        raise RetraceError(
            f"method.stacking_list: growth to fewer layers ({num_layers} to {len(stacking_list)}): "
            "give at least as many entries as the base has layers"
        )
    if lost := sorted(set(range(num_layers)) - set(stacking_list)):
        raise RetraceError(
            f"method.stacking_list: layer {lost[0]} of the base is missing, and with it what it has learnt: name each "
            f"of the layers 0 to {num_layers - 1} at least once"
        )


def pattern_layers(pattern: str, num_layers: int, growth_factor: int) -> list[int]:
    """The index list of a named pattern for g times l layers, in the paper's a-b*k-c notation with letters for parts.

    ``stack``: the model g times over (0 1 0 1). ``interpolate``: each layer g times (0 0 1 1). ``front``, ``middle``,
    ``back``: half of the layers, from that place, as often as it takes, and the others once (123*7-456 for 6 to 24);
    less than half where that does not come out even.

    Raises:
        RetraceError: the layers have no such part.
    """
    layers = list(range(num_layers))
    if pattern == "stack":
        return layers * growth_factor
    if pattern == "interpolate":
        return [layer for layer in layers for _ in range(growth_factor)]
    if num_layers < (3 if pattern == "middle" else 2):
        raise RetraceError(
            f"method.pattern {pattern} repeats a part of the layers, and a base of {num_layers} has none: choose "
            "another pattern"
        )
    new = num_layers * (growth_factor - 1)
    size = max(size for size in range(1, num_layers // 2 + 1) if new % size == 0)
    start = {"front": 0, "middle": (num_layers - size) // 2, "back": num_layers - size}[pattern]
    return layers[:start] + layers[start : start + size] * (new // size + 1) + layers[start + size :]


def grown_layers(
    base: ModelSpec, growth_factor: int, stacking_list: Sequence[int] | None, pattern: str = "stack"
) -> list[int]:
    """Base layer of every layer of the grown model.

    Args:
        growth_factor: g, where there is no list.
        pattern: how copies are ordered, where there is no list (:func:`pattern_layers`).

    Raises:
        RetraceError: no growth, or a list that makes no sense (:func:`check_stacking_list`).
    """
    if stacking_list is not None:
        check_stacking_list(stacking_list, base.num_layers)
        return list(stacking_list)
    if growth_factor < 1:
        raise RetraceError(f"method.growth_factor must be at least 1, got {growth_factor}")
    return pattern_layers(pattern, base.num_layers, growth_factor)


def inserted_layers(layers: Sequence[int], num_layers: int) -> list[int]:
    """Layers of the grown model that are not the base's own: all but the first of each index.

    Raises:
        RetraceError: the base's own layers would be out of order, which no identity between them can mend.
    """
    own = [layers.index(layer) for layer in range(num_layers)]
    if own != sorted(own):
        raise RetraceError(
            "method.stacking_list: the first entry of each layer is the base's own, and they must come in the base's "
            f"order; in {list(layers)} they come as {sorted(range(num_layers), key=layers.index)}"
        )
    return sorted(set(range(len(layers))) - set(own))


def connection_rate(stacking_list: Sequence[int]) -> float:
    """Percentage of neighbouring layers that were neighbours in the base (arXiv 2405.15319, eq 51)."""
    if len(stacking_list) < 2:
        return 100.0
    kept = sum(after == before + 1 for before, after in pairwise(stacking_list))
    return 100.0 * kept / (len(stacking_list) - 1)


def layer_of(name: str) -> int | None:
    """Number of the layer that a parameter lies in."""
    match = LAYER.match(name)
    return int(match[1]) if match else None


def own_tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor in a buffer of its own: as it is read, where every look-up reads it anew (``fresh``), else a copy."""
    tensor = tensors[name]
    return tensor if getattr(tensors, "fresh", False) else tensor.clone()


def layered(names: Iterable[str], sources: Sequence[int]) -> Iterator[tuple[str, str]]:
    """(name, name in the base) of every parameter of a model whose layers are made of the base's, in the base's order.

    Args:
        names: of the base's parameters.
        sources: for every layer of the model a layer of the base with the same parameters.
    """
    names = list(names)
    suffixes: dict[int, list[str]] = {}
    for name in names:
        if match := LAYER.match(name):
            suffixes.setdefault(int(match[1]), []).append(match[2])
    layers_named = False
    for name in names:
        if not LAYER.match(name):
            yield name, name
        elif not layers_named:
            layers_named = True
            for layer, source in enumerate(sources):
                for suffix in suffixes[source]:
                    yield f"decoder.layers.{layer}.{suffix}", f"decoder.layers.{source}.{suffix}"


def copy_layers(tensors: Mapping[str, Tensor], stacking_list: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the grown model: layers by the list, everything else once, in the base's order.

    Every tensor is a copy of its own: two layers made from one never share a buffer.
    """
    for name, source in layered(tensors, stacking_list):
        yield name, own_tensor(tensors, source)


def copy_own_layers(
    tensors: Mapping[str, Tensor], stacking_list: Sequence[int], num_layers: int
) -> Iterator[tuple[str, Tensor]]:
    """As ``copy_layers``, with zeros in the layers that are not the base's own."""
    inserted = set(inserted_layers(stacking_list, num_layers))
    for name, tensor in copy_layers(tensors, stacking_list):
        yield name, tensor.zero_() if layer_of(name) in inserted else tensor


def layers_between(base: ModelSpec, growth_factor: int, stacking_list: Sequence[int] | None) -> list[int]:
    """For every layer of a model the layer of the base that it is, or that it was inserted after.

    Raises:
        RetraceError: as ``grown_layers`` and ``inserted_layers``.
    """
    layers = grown_layers(base, growth_factor, stacking_list, "interpolate")
    inserted_layers(layers, base.num_layers)
    return layers


def insertion_facts(stacking_list: Sequence[int], num_layers: int) -> dict[str, Any]:
    """What run.json says of inserted layers."""
    return {
        "stacking_list": list(stacking_list),
        "connection_rate": round(connection_rate(stacking_list), 2),
        "inserted_layers": inserted_layers(stacking_list, num_layers),
    }
