"""A reciprocal of the training tokens, L(N) = a / (1 + b N) + c: the loss as a whole, whatever the learning rate does.

Paper: a baseline of arXiv 2404.17785; the form is ours: the paper's own constants are not known to us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.forecast.curves import carry_on
from pipelines.forecast.separable import Shape

if TYPE_CHECKING:
    from pipelines.forecast.protocol import Forecast, Place
    from pipelines.megatron.position_losses import Evaluation

SHAPE = Shape(
    lambda x, rate: 1 / (1 + rate * x),
    0.01,
    1e3,
    "the rate is not bounded below: the loss is straight in N, and a, b and c are not identified",
    "the rate is not bounded above: only a / b and c are identified, not a and b",
)


@dataclass(frozen=True)
class ReciprocalLaw:
    """L(N) = a / (1 + b N) + c, N training tokens."""

    def forecast(self, seen: Sequence[Evaluation], asked: Sequence[Place]) -> Forecast:
        return carry_on(SHAPE, seen, asked)
