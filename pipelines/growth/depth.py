"""Growth in depth by an index list: layer i of the grown model is a copy of layer ``stacking_list[i]`` of the base.

One list covers stacking ([0..l-1] * g), interpolation ([0] * g + [1] * g + ...), partial stacking and upscaling
(arXiv 2405.15319, algorithm 1 and appendix on connection rate).
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

LAYER = re.compile(r"^decoder\.layers\.(\d+)\.(.+)$")


def check_stacking_list(stacking_list: Sequence[int], num_layers: int) -> None:
    """Refuse a list that is empty, names layers the base lacks, or makes the model shallower.

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


def connection_rate(stacking_list: Sequence[int]) -> float:
    """Percentage of neighbouring layers that were neighbours in the base (arXiv 2405.15319, eq 51)."""
    if len(stacking_list) < 2:
        return 100.0
    kept = sum(after == before + 1 for before, after in pairwise(stacking_list))
    return 100.0 * kept / (len(stacking_list) - 1)


def copy_layers(tensors: Mapping[str, Tensor], stacking_list: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the grown model: layers by the list, everything else once, in the base's order.

    Every tensor is a copy of its own: two layers made from one never share a buffer.
    """
    suffixes: dict[int, list[str]] = {}
    for name in tensors:
        if match := LAYER.match(name):
            suffixes.setdefault(int(match[1]), []).append(match[2])
    layers_written = False
    for name in tensors:
        if not LAYER.match(name):
            yield name, tensors[name].clone()
        elif not layers_written:
            layers_written = True
            for layer, source in enumerate(stacking_list):
                for suffix in suffixes[source]:
                    yield f"decoder.layers.{layer}.{suffix}", tensors[f"decoder.layers.{source}.{suffix}"].clone()
