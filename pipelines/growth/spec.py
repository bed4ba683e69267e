"""Specs of the growth verbs. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipelines.megatron.spec import ModelSpec, TrainingSpec
from pipelines.runs.verb import Spec

OptimizerPolicy = Literal["fresh", "copy", "project", "zero_new"]
SchedulePolicy = Literal["restart", "continue", "rewarm", "WSD"]
DataPolicy = Literal["disjoint", "continue", "restart"]


class GrowthSpec(Spec):
    """Growth, then training at a budget of FLOPs that counts the base model's."""

    method: dict[str, Any] = Field(description="growth method and its hyper-parameters")
    model: ModelSpec = Field(description="the target model, after growth")
    training: TrainingSpec = Field(description="train_iters is the scratch run's, which sets the FLOPs budget")
    optimizer_policy: OptimizerPolicy = Field(
        "fresh",
        description="AdamW's moments after growth: zeros, the base's with each copied unit, the base's as the growth "
        "maps gradients, or the base's for old units alone",
    )
    schedule_policy: SchedulePolicy = Field(
        "restart",
        description="learning rate after growth: all anew, scratch's at the same FLOPs, that after a warm-up, or on "
        "in the stable phase and down at the end",
    )
    data_policy: DataPolicy = Field(
        "disjoint",
        description="sequences after growth: none of the base's, the next even when the corpus begins again, or the "
        "base's from the first",
    )
    certify: bool = Field(
        True,
        description="measure what growth did to the function, in float64, into run.json; by one process on the CPU, "
        "for which the others wait: false for models of many billions",
    )
    seed: int = Field(0, ge=0, description="initial weights and data order")


class GrowSpec(Spec):
    """Growth of a checkpoint, without training."""

    method: dict[str, Any] = Field(description="growth method and its hyper-parameters")
    seed: int = Field(0, ge=0, description="of what the method draws at random")
    certify: bool = Field(True, description="measure what growth did to the function, in float64, into run.json")


class LevelSpec(Spec):
    """A step between the levels of multi-level training."""

    depth: int = Field(2, ge=1, description="layers of the large model for one of the small")
    width: int = Field(2, ge=1, description="units (residual, feed-forward, query groups) for one of the small")


class InterpolateSpec(Spec):
    """A mixture of a large model and the one de-coalesced from what became of it."""

    interpolation_coeff: float = Field(
        0.25, ge=0, le=1, description="share of the de-coalesced model (0.25 for GPT in arXiv 2404.07999)"
    )
