"""Verdicts: what seed-paired differences and their interval say about a claim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["reproduced", "trend", "contradicted", "inconclusive", "not run at this scale"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "trend", "inconclusive", "contradicted", "not run at this scale")


@dataclass(frozen=True)
class Interval:
    """Mean of the differences, and Student's t interval around it (unbounded for a single difference)."""

    mean: float
    low: float
    high: float
    n: int


def t_interval(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean ± t(n-1) * sd / sqrt(n) of paired differences; a point where all of them are equal.

    Raises:
        ValueError: no differences.
    """
    n = len(differences)
    if n == 0:
        raise ValueError("an interval needs at least one difference")
    mean = statistics.fmean(differences)
    if n == 1:
        return Interval(mean, -math.inf, math.inf, n)
    spread = statistics.stdev(differences)
    if spread == 0:
        # fmean of equal numbers may differ from them in the last bit.
        return Interval(differences[0], differences[0], differences[0], n)
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * spread / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def judge(interval: Interval) -> Verdict:
    """The verdict on a claim that the differences are positive.

    reproduced: the interval lies wholly above zero; contradicted: wholly below; trend: right sign, but the
    interval reaches zero; inconclusive: wrong sign or none and the interval reaches zero, or fewer than two seeds.
    """
    if interval.n < 2:
        return "inconclusive"
    if interval.low > 0:
        return "reproduced"
    if interval.high < 0:
        return "contradicted"
    return "trend" if interval.mean > 0 else "inconclusive"
