"""What a forecasting method is: a law fitted to the evaluations it is shown, and asked for the loss elsewhere.

A method never holds an evaluation after the cut: of those it gets the place in training alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipelines.megatron.position_losses import Evaluation

FEWEST_EVALUATIONS = 4
"""A law has three free numbers over time: from three evaluations it would fit anything."""


@dataclass(frozen=True)
class Place:
    """A place in training that is known before it is reached.

    Attributes:
        tokens: training tokens before it.
        lr: learning rate there, by the schedule.
    """

    tokens: int
    lr: float


@dataclass(frozen=True)
class Forecast:
    """What a law says.

    Attributes:
        losses: validation loss in nats a token, one for each place asked for.
        parameters: the fitted numbers by name, those that are not identified included.
        warnings: which of them the seen evaluations do not identify, in words.
    """

    losses: tuple[float, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class ForecastMethod(Protocol):
    """Hooks of a forecasting method (a frozen dataclass of its hyper-parameters)."""

    def forecast(self, seen: Sequence[Evaluation], asked: Sequence[Place]) -> Forecast:
        """Fit the law to the seen evaluations (at least FEWEST_EVALUATIONS, of one text) and ask it for the rest."""
        ...
