"""Forecasts that know the loss as a whole: a falling curve over tokens, fitted and carried on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.forecast.protocol import Forecast, Place
from pipelines.forecast.separable import Shape, fit

if TYPE_CHECKING:
    from pipelines.megatron.position_losses import Evaluation


def carry_on(shape: Shape, seen: Sequence[Evaluation], asked: Sequence[Place]) -> Forecast:
    """Fit ``scale * f(N; rate) + floor`` to the seen losses and evaluate it where asked.

    N are training tokens in units of the last seen evaluation's, so that rates are of order 1.
    """
    unit = seen[-1].tokens
    found = fit(
        shape,
        np.array([each.tokens / unit for each in seen]),
        np.array([each.loss for each in seen]),
        np.ones(len(seen)),
    )
    later = shape.function(np.array([each.tokens / unit for each in asked]), found.rate)
    losses = found.scale * later + found.floor
    parameters = {"scale": found.scale, "rate": found.rate, "floor": found.floor, "unit_tokens": float(unit)}
    return Forecast(tuple(losses.tolist()), parameters, found.warnings)
