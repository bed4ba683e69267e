"""Spec of the moe verb. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipelines.megatron.spec import ExpertSpec, ModelSpec, TrainingSpec
from pipelines.runs.verb import Spec


class MoESpec(Spec):
    """Training of a mixture-of-experts model."""

    method: dict[str, Any] = Field(description="routing method and its hyper-parameters")
    model: ModelSpec
    experts: ExpertSpec
    training: TrainingSpec
    micro_batch_size: int = Field(ge=1, description="sequences a forward pass; the auxiliary loss depends on it")
    init: Literal["scratch", "upcycle"] = Field("scratch", description="upcycle: every expert starts as --dense's FFN")
    seed: int = Field(0, ge=0, description="initial weights and data order")

    @model_validator(mode="after")
    def _micro_batches(self) -> Self:
        if self.training.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide "
                f"training.global_batch_size {self.training.global_batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _copies_fit(self) -> Self:
        if self.init == "upcycle" and self.experts.moe_ffn_hidden_size != self.model.ffn_hidden_size:
            raise ValueError(
                f"init upcycle copies the dense FFN: experts.moe_ffn_hidden_size {self.experts.moe_ffn_hidden_size} "
                f"must equal model.ffn_hidden_size {self.model.ffn_hidden_size}"
            )
        return self
