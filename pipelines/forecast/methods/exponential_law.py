"""An exponential of the training tokens, L(N) = a exp(-b N) + c: the loss as a whole, whatever the learning rate does.

Paper: a baseline of arXiv 2404.17785; the form is ours: the paper's own constants are not known to us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipelines.forecast.curves import carry_on
from pipelines.forecast.separable import Shape

if TYPE_CHECKING:
    from pipelines.forecast.protocol import Forecast, Place
    from pipelines.megatron.position_losses import Evaluation

SHAPE = Shape(
    lambda x, rate: np.exp(-rate * x),
    0.01,
    1e2,
    "the rate is not bounded below: the loss is straight in N, and a, b and c are not identified",
    "the rate is not bounded above: the floor c is reached, and a and b are not identified",
)


@dataclass(frozen=True)
class ExponentialLaw:
    """L(N) = a exp(-b N) + c, N training tokens."""

    def forecast(self, seen: Sequence[Evaluation], asked: Sequence[Place]) -> Forecast:
        return carry_on(SHAPE, seen, asked)
