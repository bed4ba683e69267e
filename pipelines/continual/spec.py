"""Specs of the continual stage. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipelines.runs.verb import Spec


class FinetuneSpec(Spec):
    """Finetuning of one model on a sequence of labelled tasks."""

    method: dict[str, Any] = Field(description="name and hyper-parameters of the continual-learning method")
    adapter: Literal["full", "lora"] = Field("full", description="train every weight, or one LoRA adapter")
    lora_rank: int = Field(8, ge=1)
    lora_alpha: float = Field(32.0, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    lora_targets: tuple[str, ...] = Field((), description="names of linear layers; empty: all but output layers")
    task_sequence: tuple[str, ...] = Field((), description="order of the tasks; empty: as in tasks.json")
    epochs: int = Field(1, ge=1, description="passes over each task's training examples")
    batch_size: int = Field(16, ge=1, description="examples an optimiser step")
    micro_batch_size: int | None = Field(None, ge=1, description="examples a forward pass; default: batch_size")
    lr: float = Field(gt=0, description="constant learning rate")
    weight_decay: float = Field(0.01, ge=0)
    clip_grad: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    max_length: int = Field(96, ge=8, description="tokens of an example; longer texts lose their beginning")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="autocast of matrix products; weights stay float32")
    eval_batch_size: int = Field(32, ge=1, description="examples an evaluation pass")
    seed: int = Field(0, ge=0)
