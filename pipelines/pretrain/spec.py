"""Spec of the pretrain verb. Imports no torch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipelines.megatron.spec import ModelSpec, TrainingSpec
from pipelines.runs.verb import Spec


class TrainSpec(Spec):
    """A model trained from random weights."""

    method: dict[str, Any] = Field(
        {"name": "dense"}, description="form in which the linear layers are trained, and its hyper-parameters"
    )
    model: ModelSpec
    training: TrainingSpec
    train_bytes: int | None = Field(
        None,
        ge=0,
        description="budget in bytes of text, whatever the tokenizer; replaces training.train_iters (0: no training)",
    )
    seed: int = Field(0, ge=0, description="initial weights and data order")
