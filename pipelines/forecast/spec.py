"""Specs of the forecast verbs. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipelines.runs.verb import Spec


class PredictSpec(Spec):
    """Loss of later training, forecast from the evaluations before a cut."""

    method: dict[str, Any] = Field(description="law and its hyper-parameters")
    cut: float = Field(0.5, gt=0, lt=1, description="share of the training tokens after which nothing is seen")


class PositionsSpec(Spec):
    """Fits of the reciprocal law to the loss by position."""

    bins_per_octave: int = Field(2, ge=1, description="log-spaced bins of positions to show and to score the fit on")
