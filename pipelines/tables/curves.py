"""Loss curves: reading them from a run's logged lines, smoothing them, and finding where one reaches a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Curve = list[tuple[float, float]]
"""Points (x, y) with growing x."""


def read_curve(lines: Sequence[dict[str, Any]], x: str, y: str) -> Curve:
    """The points of the lines that have both numbers, in the order of x; of equal x the last one counts."""
    points = {}
    for line in lines:
        if isinstance(line.get(x), int | float) and isinstance(line.get(y), int | float) and math.isfinite(line[y]):
            points[float(line[x])] = float(line[y])
    return sorted(points.items())


def smooth(curve: Curve, window: int) -> Curve:
    """Mean of every ``window`` neighbouring points, of x and of y alike; empty if there are fewer.

    Averaging x too keeps a straight line where it is, so that smoothing shifts no crossing.
    """
    starts = range(len(curve) - window + 1)
    return [_mean(curve[start : start + window]) for start in starts]


def first_reaching(curve: Curve, level: float) -> float | None:
    """The first x at which the curve comes down to ``level``, linear between points; None if it never does.

    Nothing is extrapolated: a curve that starts below the level reaches it at its first point.
    """
    for place, (x, y) in enumerate(curve):
        if y <= level:
            if place == 0:
                return x
            before_x, before_y = curve[place - 1]
            return before_x + (before_y - level) / (before_y - y) * (x - before_x)
    return None


def flops_to_match(
    lines: Sequence[dict[str, Any]], reference_lines: Sequence[dict[str, Any]], loss: str, window: int
) -> tuple[float, float] | None:
    """FLOPs of the reference at its final smoothed loss, and FLOPs at which the other run first reaches that loss.

    Both curves are over cumulative FLOPs (those of a base model included) and smoothed alike. None if either
    has fewer points than the window, or the loss is never reached. Source: arXiv 2405.15319, eq. 48.
    """
    reference = smooth(read_curve(reference_lines, "flops", loss), window)
    curve = smooth(read_curve(lines, "flops", loss), window)
    if not reference or not curve:
        return None
    reference_flops, level = reference[-1]
    reached = first_reaching(curve, level)
    return None if reached is None else (reference_flops, reached)


def validation_loss(lines: Sequence[dict[str, Any]], reference_lines: Sequence[dict[str, Any]]) -> str:
    """Name of the validation loss that both runs have logged on the way: of the interim text, or of the whole one."""
    interim = all(any("interim_val_loss" in line for line in each) for each in (lines, reference_lines))
    return "interim_val_loss" if interim else "val_loss"


def _mean(points: Curve) -> tuple[float, float]:
    return math.fsum(x for x, _ in points) / len(points), math.fsum(y for _, y in points) / len(points)
