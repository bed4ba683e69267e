"""IsoFLOP curves: at equal FLOPs, the loss over how long the base model was trained before it was grown."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np

from pipelines.tables.cells import Cell
from pipelines.tables.curves import Curve, read_curve, smooth
from pipelines.tables.spec import TableSpec

NUM_LEVELS = 3


@dataclass(frozen=True)
class Level:
    """The losses at one number of FLOPs.

    Attributes:
        flops: cumulative, those of a base model included.
        grown: (base tokens, mean over seeds, standard deviation), by base tokens.
        scratch: mean loss of the rows that were grown from nothing, or None.
    """

    flops: float
    grown: list[tuple[float, float, float]]
    scratch: float | None


def levels(table: TableSpec, cells: dict[tuple[str, int], Cell], loss: str) -> list[Level]:
    """Losses at levels of FLOPs spread evenly over the upper half of what all runs have logged after their growth.

    Losses are smoothed over the table's window and linear between logged points. Empty if no run was grown, or the
    runs share no FLOPs.
    """
    curves: dict[str, list[Curve]] = {}
    timings: dict[str, float | None] = {}
    for (row, _), cell in cells.items():
        curve = smooth(read_curve(cell.lines, "flops", loss), table.smoothing_window)
        if curve:
            curves.setdefault(row, []).append(curve)
            timings[row] = cell.metrics.get("base_tokens")
    every = [curve for group in curves.values() for curve in group]
    if not any(timing is not None for timing in timings.values()):
        return []
    start, end = max(curve[0][0] for curve in every), min(curve[-1][0] for curve in every)
    if start >= end:
        return []
    return [_level(float(flops), curves, timings) for flops in np.linspace((start + end) / 2, end, NUM_LEVELS)]


def _level(flops: float, curves: dict[str, list[Curve]], timings: dict[str, float | None]) -> Level:
    grown, scratch = [], []
    for row, group in curves.items():
        losses = [float(np.interp(flops, [x for x, _ in curve], [y for _, y in curve])) for curve in group]
        timing = timings[row]
        if timing is None:
            scratch.append(math.fsum(losses) / len(losses))
        else:
            spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
            grown.append((float(timing), math.fsum(losses) / len(losses), spread))
    return Level(flops, sorted(grown), math.fsum(scratch) / len(scratch) if scratch else None)
