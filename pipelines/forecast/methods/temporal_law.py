"""The temporal scaling law: the reciprocal law over positions, its three numbers moving with training.

Paper: Temporal Scaling Law for Large Language Models (arXiv 2404.17785). At N training tokens

    L_i(N) = a0(N) / (1 + a1(N) i) + a2(N),   L(N) = mean over the positions i,

with a0 = p0 + q0 log N, a1 = p1 + q1 / N, and a2 = p2 + q2 lr(N) / max lr: it follows the learning rate's decay. The
law over positions is fitted to each seen evaluation, then each form to the numbers found.

Deviations: the forms are from accounts of the first version; the last version's equations, and the threshold in N after
which its a0 and a1 change form, are not known to us. Where a seen evaluation does not identify its a1, all of them get
one in common (q1 = 0), the best of those that bend the law within a sequence: numbers that mean nothing one by one
cannot be carried on. An a1 carried on beyond the rates that a fit can tell apart is put back to the last of them, which
keeps the law finite. ``floor: learning_rate_and_tokens`` is ours: a2 may fall with log N too, as it does where the
model still learns its most frequent words while the learning rate has hardly moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipelines.forecast.position_law import fit_positions, law, shape
from pipelines.forecast.protocol import Forecast, Place
from pipelines.forecast.separable import EXACT, Vector

if TYPE_CHECKING:
    from pipelines.megatron.position_losses import Evaluation

COLLINEAR = 1e3
"""Condition of columns of unit length from which their coefficients cannot be told apart."""


@dataclass(frozen=True)
class TemporalLaw:
    """The law, and what its floor follows."""

    floor: Literal["learning_rate", "learning_rate_and_tokens"] = "learning_rate"

    def forecast(self, seen: Sequence[Evaluation], asked: Sequence[Place]) -> Forecast:
        places = [Place(each.tokens, each.lr) for each in seen]
        unit, peak = seen[-1].tokens, max(each.lr for each in places)
        fits = [fit_positions(each).fit for each in seen]
        scales, rates, floors = ([getattr(each, name) for each in fits] for name in ("scale", "rate", "floor"))
        warnings = []
        if doubtful := [each for each in fits if not each.identified]:
            warnings.append(f"at {len(doubtful)} of {len(fits)} seen evaluations: {doubtful[-1].warnings[0]}")
            scales, rates, floors = common_rate(seen)

        def one(where: Sequence[Place]) -> Vector:
            return np.ones(len(where))

        def log_tokens(where: Sequence[Place]) -> Vector:
            return np.log([each.tokens / unit for each in where])

        def inverse_tokens(where: Sequence[Place]) -> Vector:
            return np.array([unit / each.tokens for each in where])

        def learning_rate(where: Sequence[Place]) -> Vector:
            return np.array([each.lr / peak for each in where])

        floor_follows = {"q2": learning_rate}
        if np.ptp(learning_rate(places)) <= EXACT:
            floor_follows = {}
            warnings.append(
                "the learning rate is the same at every seen evaluation: q2 is not identified, and left out"
            )
        if self.floor == "learning_rate_and_tokens":
            floor_follows["r2"] = log_tokens
        forms = (
            ("a0", {"p0": one, "q0": log_tokens}, scales),
            ("a1", {"p1": one, "q1": inverse_tokens}, rates),
            ("a2", {"p2": one, **floor_follows}, floors),
        )
        parameters: dict[str, float] = {"unit_tokens": float(unit)}
        later = {}
        for name, columns, found in forms:
            design = np.column_stack([column(places) for column in columns.values()])
            if np.linalg.cond(design / np.linalg.norm(design, axis=0)) > COLLINEAR:
                warnings.append(
                    f"{name}: {' and '.join(columns)} multiply what varies together, and are not identified"
                )
            coefficients, *_ = np.linalg.lstsq(design, np.array(found), rcond=None)
            parameters |= dict(zip(columns, coefficients.tolist(), strict=True))
            later[name] = np.column_stack([column(asked) for column in columns.values()]) @ coefficients

        counts = seen[-1].counts.astype(float)
        allowed = shape(len(counts))
        later_rates = np.clip(later["a1"], allowed.low, allowed.high)
        position = np.arange(1, len(counts) + 1).astype(float)
        means = [float(np.average(law(position, rate), weights=counts)) for rate in later_rates]
        losses = later["a0"] * means + later["a2"]
        return Forecast(tuple(losses.tolist()), parameters, tuple(warnings))


def common_rate(seen: Sequence[Evaluation]) -> tuple[list[float], list[float], list[float]]:
    """a0, a1 and a2 of each evaluation, with the one a1 that fits all of them best; below 1 / S the law is a line."""
    position = np.arange(1, len(seen[0].counts) + 1).astype(float)

    def solve(rate: float) -> tuple[float, list[Vector]]:
        squares, found = 0.0, []
        for each in seen:
            there = each.counts > 0
            root = np.sqrt(each.counts[there])
            design = np.column_stack([law(position[there], rate), np.ones(int(there.sum()))]) * root[:, None]
            target = each.means[there] * root
            linear, *_ = np.linalg.lstsq(design, target, rcond=None)
            squares += float(np.sum((target - design @ linear) ** 2))
            found.append(linear)
        return squares, found

    grid = np.geomspace(1 / len(position), shape(len(position)).high, 121)
    rate = float(min(grid, key=lambda each: solve(each)[0]))
    linear = np.array(solve(rate)[1])
    return linear[:, 0].tolist(), [rate] * len(seen), linear[:, 1].tolist()
