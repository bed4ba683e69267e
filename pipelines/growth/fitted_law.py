"""A law of one's own for the growth timing: IsoFLOP parabolas, their minima, and a regression over them.

The procedure of arXiv 2405.15319, section 4.1: at each level of FLOPs the loss over log10 d is fitted by a parabola,
whose minimum is the best d of that level; log10 d = a log10 N + b / log10 C + c is then fitted to the minima. What
the points cannot tell is said and left out, never filled in: a level whose parabola opens downwards or whose minimum
lies beyond the tried d gives no minimum, and a coefficient whose variable does not vary is not fitted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite, log10

import numpy as np

from pipelines.runs.errors import RetraceError

COLLINEAR = 0.99
"""Correlation of log10 N and 1 / log10 C from which their coefficients cannot be told apart."""


@dataclass(frozen=True)
class Point:
    """One run, or the mean of its seeds, at one level of FLOPs.

    Attributes:
        num_parameters: N of the target.
        flops: C of the level, those of the base included.
        growth_timing: d, tokens that the base was trained for.
        loss: at that level.
    """

    num_parameters: float
    flops: float
    growth_timing: float
    loss: float


@dataclass(frozen=True)
class Minimum:
    """The bottom of one level's parabola."""

    num_parameters: float
    flops: float
    growth_timing: float
    loss: float


@dataclass(frozen=True)
class FittedLaw:
    """What the points tell.

    Attributes:
        minima: one for each level that has a bottom.
        coefficients: of ``a`` (log10 N), ``b`` (1 / log10 C) and ``c``; only those that could be fitted.
        residual: root mean square of log10 d around the law; None where the fit has no freedom left.
        warnings: what the points do not tell, in words.
    """

    minima: tuple[Minimum, ...]
    coefficients: dict[str, float] = field(default_factory=dict)
    residual: float | None = None
    warnings: tuple[str, ...] = ()


def fit_law(points: Iterable[Point]) -> FittedLaw:
    """Fit the law to points of any number of levels.

    Raises:
        RetraceError: no points, or a number that is no count or loss.
    """
    levels: dict[tuple[float, float], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        if not (point.num_parameters > 0 and point.flops > 10 and point.growth_timing >= 0 and isfinite(point.loss)):
            raise RetraceError(f"not a point of a law: {point}; N and C are positive counts, d is not negative")
        levels[point.num_parameters, point.flops][point.growth_timing].append(point.loss)
    if not levels:
        raise RetraceError("no points: give runs of `growth train` with a base model, or a file of points")
    warnings: list[str] = []
    minima = []
    for (size, flops), losses in sorted(levels.items()):
        bottom = _minimum(size, flops, losses, warnings)
        if bottom is not None:
            minima.append(bottom)
    coefficients, residual = _regress(minima, warnings)
    return FittedLaw(tuple(minima), coefficients, residual, tuple(warnings))


def _minimum(size: float, flops: float, losses: dict[float, list[float]], warnings: list[str]) -> Minimum | None:
    """Bottom of the level's parabola over log10 d; None, with a warning, where it has none."""
    level = f"N {size:.4g}, C {flops:.4g}"
    # log10 0 does not exist: a base that was not trained is no point of the parabola.
    tried = sorted(d for d in losses if d > 0)
    if len(tried) < 3:
        warnings.append(f"{level}: {len(tried)} trained d, and a parabola needs 3")
        return None
    x = np.log10(tried)
    y = np.array([float(np.mean(losses[d])) for d in tried])
    centre = float(x.mean())
    curvature, slope, _ = np.polyfit(x - centre, y, 2)
    if curvature <= 1e-12 * float(np.abs(y).max()):
        warnings.append(f"{level}: the losses over log10 d have no valley (curvature {curvature:.3g})")
        return None
    offset = float(-slope / (2 * curvature))
    if not x[0] <= centre + offset <= x[-1]:
        warnings.append(
            f"{level}: the parabola's minimum, d = {10 ** (centre + offset):.4g}, is outside the tried "
            f"{tried[0]:.4g} to {tried[-1]:.4g}"
        )
        return None
    if len(tried) == 3:
        warnings.append(f"{level}: a parabola through 3 points fits always; a fourth d would test it")
    bottom = float(np.polyval(np.polyfit(x - centre, y, 2), offset))
    return Minimum(size, flops, float(10 ** (centre + offset)), bottom)


def _regress(minima: list[Minimum], warnings: list[str]) -> tuple[dict[str, float], float | None]:
    """Least squares of log10 d over the variables that vary; nothing where they are too few or alike."""
    if not minima:
        warnings.append("no level has a minimum: there is no law to fit")
        return {}, None
    variables = {
        "a": np.array([log10(each.num_parameters) for each in minima]),
        "b": np.array([1 / log10(each.flops) for each in minima]),
    }
    names = {"a": "log10 N", "b": "1 / log10 C"}
    varying = {key: values for key, values in variables.items() if np.ptp(values) > 1e-9}
    warnings += [
        f"{names[key]} is the same at every minimum: {key} cannot be told from c"
        for key in variables.keys() - varying.keys()
    ]
    if len(varying) == 2 and abs(float(np.corrcoef(np.stack([*varying.values()]))[0, 1])) > COLLINEAR:
        warnings.append("log10 N and 1 / log10 C vary together: a and b cannot be told apart; vary N at one C")
        return {}, None
    needed = len(varying) + 1
    if len(minima) < needed:
        warnings.append(f"{len(minima)} minima for {needed} coefficients: none is fitted")
        return {}, None
    design = np.column_stack([*varying.values(), np.ones(len(minima))])
    found, *_ = np.linalg.lstsq(design, target := np.log10([each.growth_timing for each in minima]), rcond=None)
    free = len(minima) - needed
    if free == 0:
        warnings.append(f"{needed} coefficients from {needed} minima: the fit cannot fail, so it proves nothing")
    residual = float(np.sqrt(np.mean((design @ found - target) ** 2))) if free else None
    return dict(zip([*varying, "c"], (float(each) for each in found), strict=True)), residual
