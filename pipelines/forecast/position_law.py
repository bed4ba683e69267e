"""The reciprocal law of loss over positions: L_i = a0 / (1 + a1 i) + a2.

Paper: Temporal Scaling Law for Large Language Models (arXiv 2404.17785), called reciprocal in its first version and
hyperbolic later. Position i sees i tokens, i = 1 .. S; whether the paper counts from 0 we do not know, which changes a0
and a1 and not the curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.forecast.separable import Fit, Shape, Vector, fit

if TYPE_CHECKING:
    from pipelines.megatron.position_losses import Evaluation

HIGHEST_RATE = 1e3
"""Here a0 / (1 + a1 i) is a0 / (a1 i) to a thousandth, at the first position already."""


@dataclass(frozen=True)
class PositionFit:
    """The law at one evaluation.

    Attributes:
        fit: scale a0 and floor a2 in nats, rate a1 a position; its r2 is over all positions, weighted by their counts.
        binned_r2: share of the variance that the law explains between log-spaced bins of positions, every bin alike;
            None for fewer than four bins.
        noise_ratio: mean square of the residuals over that of the positions' standard errors: 1 where the law leaves
            nothing but sampling noise.
    """

    fit: Fit
    binned_r2: float | None
    noise_ratio: float

    @property
    def ratio(self) -> float:
        """a0 / a1, which stays identified where a1 i >> 1 at every position."""
        return self.fit.scale / self.fit.rate


def law(position: Vector, rate: float) -> Vector:
    """1 / (1 + a1 i)."""
    return 1 / (1 + rate * position)


def shape(num_positions: int) -> Shape:
    """The law over positions 1 .. S; at the lowest rate it is a straight line up to S."""
    return Shape(
        law,
        0.01 / num_positions,
        HIGHEST_RATE,
        "a1 i << 1 at every position: only the slope a0 a1 is identified, not a0, a1 and a2",
        "a1 i >> 1 at every position: only a0 / a1 is identified, not a0 and a1",
    )


def fit_positions(evaluation: Evaluation, bins_per_octave: int = 2) -> PositionFit:
    """Fit the law to one evaluation, weighted by the tokens at each position.

    Sequences must have at least four positions.
    """
    there = evaluation.counts > 0
    position = np.arange(1, len(there) + 1)[there].astype(float)
    means, counts = evaluation.means[there], evaluation.counts[there].astype(float)
    found = fit(shape(len(there)), position, means, counts)
    fitted = found.scale * law(position, found.rate) + found.floor
    errors = evaluation.standard_errors[there]
    certain = errors > 0
    spread = np.sum(((means - fitted)[certain] / errors[certain]) ** 2)
    groups = log_bins(position, bins_per_octave)
    measured, expected = (binned(values, counts, groups) for values in (means, fitted))
    total = float(np.sum((measured - measured.mean()) ** 2))
    binned_r2 = 1 - float(np.sum((measured - expected) ** 2)) / total if len(measured) > 3 and total > 0 else None
    return PositionFit(found, binned_r2, float(spread) / max(int(certain.sum()) - 3, 1))


def log_bins(position: Vector, bins_per_octave: int) -> Vector:
    """[n] number of each position's bin; bins are as wide as their ratio, and none is empty."""
    # The logarithm of an exact edge may come out just below it.
    octave = np.floor(np.log2(position) * bins_per_octave + 1e-9)
    return np.unique(octave, return_inverse=True)[1]


def binned(values: Vector, counts: Vector, groups: Vector) -> Vector:
    """Mean of the values in each bin, weighted by counts."""
    return np.bincount(groups, counts * values) / np.bincount(groups, counts)
