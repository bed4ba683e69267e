"""Specs of the growth verbs. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipelines.megatron.spec import ModelSpec, TrainingSpec
from pipelines.runs.verb import Spec


class GrowthSpec(Spec):
    """Growth, then training at a budget of FLOPs that counts the base model's."""

    method: dict[str, Any] = Field(description="growth method and its hyper-parameters")
    model: ModelSpec = Field(description="the target model, after growth")
    training: TrainingSpec = Field(description="train_iters is the scratch run's, which sets the FLOPs budget")
    optimizer_policy: Literal["fresh"] = Field("fresh", description="AdamW and the schedule start anew after growth")
    seed: int = Field(0, ge=0, description="initial weights and data order")


class GrowSpec(Spec):
    """Growth of a checkpoint, without training."""

    method: dict[str, Any] = Field(description="growth method and its hyper-parameters")
    seed: int = Field(0, ge=0, description="of what the method draws at random")
    certify: bool = Field(True, description="measure what growth did to the function, in float64, into run.json")
