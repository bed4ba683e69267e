"""A power of the training tokens, L(N) = a N^-b + c: the loss as a whole, whatever the learning rate does.

Paper: a baseline of arXiv 2404.17785; the form of scaling laws since Kaplan et al. (arXiv 2001.08361), with a floor.
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
    lambda x, rate: x**-rate,
    0.01,
    1e1,
    "the exponent is not bounded below: the loss is straight in log N, and a, b and c are not identified",
    "the exponent is not bounded above: the floor c is reached, and a and b are not identified",
)


@dataclass(frozen=True)
class PowerLaw:
    """L(N) = a N^-b + c, N training tokens."""

    def forecast(self, seen: Sequence[Evaluation], asked: Sequence[Place]) -> Forecast:
        return carry_on(SHAPE, seen, asked)
