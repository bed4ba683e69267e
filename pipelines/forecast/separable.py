"""Least squares of ``y = scale * f(x; rate) + floor``, and whether the data identify the three numbers.

For a given rate the best scale and floor follow by linear least squares, so only the rate is searched (variable
projection: Golub and Pereyra, SIAM J. Numer. Anal. 10, 1973), over a range wide enough that both its ends are limits in
which ``f`` has lost its own shape. The rate is identified where the profile of the residual over it rises above the
95 % threshold on both sides before these ends (profile likelihood: Raue et al., Bioinformatics 25, 2009). Standard
errors from the curvature at the optimum would call a flat valley's bottom a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import fdtri

Vector = NDArray[Any]

CONFIDENCE = 0.95
EXACT = 1e-9
"""Residuals below this share of y are rounding: they make no interval narrower."""
GRID = 241


@dataclass(frozen=True)
class Shape:
    """A function that falls with x, by one rate.

    Attributes:
        function: (x [n], rate) -> [n].
        low, high: ends of the rates tried, for x of order 1 and more.
        at_low, at_high: what is left to tell apart where the rate runs into them.
    """

    function: Callable[[Vector, float], Vector]
    low: float
    high: float
    at_low: str
    at_high: str


@dataclass(frozen=True)
class Fit:
    """The optimum, and what it is worth.

    Attributes:
        rate_low, rate_high: 95 % interval of the rate; None where the data set no bound on that side.
        r2: share of the weighted variance of y that the fit explains.
        warnings: what is not identified, in words; empty for a fit whose three numbers mean something.
    """

    scale: float
    rate: float
    floor: float
    rate_low: float | None
    rate_high: float | None
    r2: float
    warnings: tuple[str, ...]

    @property
    def identified(self) -> bool:
        """Whether the data bound the rate on both sides, and with it the scale and the floor."""
        return not self.warnings


def threshold(squares: float, free: int, rounding: float) -> float:
    """Sum of squares up to which a parameter's value is as good as the optimum's, at 95 %, ``free`` being n - p."""
    return max(squares, rounding) * (1 + float(fdtri(1, free, CONFIDENCE)) / free)


def fit(shape: Shape, x: Vector, y: Vector, weights: Vector) -> Fit:
    """Fit a shape to at least four points.

    Args:
        x, y: [n].
        weights: [n], inverse to the variance of each y up to a factor.
    """
    root = np.sqrt(weights)

    def projected(log_rate: float) -> tuple[float, Vector]:
        design = np.column_stack([shape.function(x, float(np.exp(log_rate))), np.ones(len(x))])
        linear, *_ = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)
        residual = (y - design @ linear) * root
        return float(residual @ residual), linear

    rates = np.linspace(np.log(shape.low), np.log(shape.high), GRID)
    profile = np.array([projected(rate)[0] for rate in rates])
    best = int(profile.argmin())
    inner = rates[max(best - 1, 0)], rates[min(best + 1, GRID - 1)]
    found = minimize_scalar(lambda rate: projected(rate)[0], bounds=inner, method="bounded", options={"xatol": 1e-10})
    log_rate = float(found.x) if found.fun <= profile[best] else float(rates[best])
    squares, (scale, floor) = projected(log_rate)
    mean = np.average(y, weights=weights)
    total = float(weights @ (y - mean) ** 2)
    limit = threshold(squares, len(x) - 3, EXACT**2 * float(weights @ y**2))
    inside = np.flatnonzero(profile <= limit)
    low, high = (inside[0], inside[-1]) if len(inside) else (best, best)
    return Fit(
        scale=float(scale),
        rate=float(np.exp(log_rate)),
        floor=float(floor),
        rate_low=float(np.exp(rates[low - 1])) if low > 0 else None,
        rate_high=float(np.exp(rates[high + 1])) if high < GRID - 1 else None,
        r2=1 - squares / total if total > limit * EXACT else 0.0,
        warnings=_warnings(shape, low == 0, high == GRID - 1),
    )


def _warnings(shape: Shape, low: bool, high: bool) -> tuple[str, ...]:
    if low and high:
        return ("no rate fits better than another: y does not visibly depend on x",)
    return ((shape.at_low,) if low else ()) + ((shape.at_high,) if high else ())
