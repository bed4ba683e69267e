"""Typed specs shared by every stage that trains with Megatron. Imports no torch."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.runs.verb import Spec

WIDTHS = ("hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups")
"""Keys of a model's width; a model k times as wide, its heads as large as before, has k times each."""


class ModelSpec(Spec):
    """Shape of a LLaMA-style GPT model, in Megatron's words. The vocabulary comes from the token artifact."""

    num_layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    ffn_hidden_size: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_query_groups: int = Field(ge=1, description="key and value heads")
    seq_length: int = Field(ge=2, description="tokens a training sequence")
    rotary_base: int = 10000
    layernorm_epsilon: float = 1e-5
    init_method_std: float = 0.02
    untie_embeddings_and_output_weights: bool = False

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"model.hidden_size {self.hidden_size} is not divisible by "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("model.hidden_size / num_attention_heads must be even: rotary embeddings pair its units")
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"model.num_attention_heads {self.num_attention_heads} is not divisible by "
                f"num_query_groups {self.num_query_groups}"
            )
        return self


class ExpertSpec(Spec):
    """The mixture-of-experts part of a model, in Megatron's words."""

    num_moe_experts: int = Field(ge=1)
    moe_router_topk: int = Field(ge=1)
    moe_ffn_hidden_size: int = Field(ge=1)
    moe_aux_loss_coeff: float = Field(0.01, ge=0)

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.moe_router_topk > self.num_moe_experts:
            raise ValueError(f"moe_router_topk {self.moe_router_topk} exceeds num_moe_experts {self.num_moe_experts}")
        return self


class TrainingSpec(Spec):
    """Optimisation of one run."""

    train_iters: int = Field(ge=1, description="optimiser steps")
    global_batch_size: int = Field(ge=1, description="sequences a step, over all ranks")
    lr: float = Field(gt=0)
    min_lr: float = Field(0.0, ge=0)
    lr_warmup_iters: int = Field(0, ge=0)
    lr_decay_style: Literal["cosine", "linear", "constant", "WSD"] = "cosine"
    lr_wsd_decay_iters: int | None = Field(None, ge=1, description="length of the decay at the end (WSD)")
    lr_wsd_decay_fraction: float | None = Field(
        None, gt=0, le=1, description="the same as a part of train_iters, whatever these are"
    )
    weight_decay: float = Field(0.1, ge=0)
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    clip_grad: float = Field(1.0, ge=0)
    precision: Literal["bf16", "fp32"] = Field("bf16", description="autocast of matrix products; weights stay float32")
    log_interval: int = Field(10, ge=1)
    eval_interval: int | None = Field(None, ge=1, description="default: only at the end")
    eval_tokens: int | None = Field(None, ge=1, description="validation tokens an evaluation; default: all")
    interim_eval_tokens: int | None = Field(
        None,
        ge=1,
        description="of the evaluations every eval_interval steps, where the last shall see more text than they; they "
        "are then logged as interim_val_loss, and one more of them follows the last step; default: eval_tokens",
    )
    save_optim: bool = Field(False, description="AdamW's moments beside the weights, for growth to take over")

    @model_validator(mode="after")
    def _schedule(self) -> Self:
        if self.lr_warmup_iters >= self.train_iters:
            raise ValueError(f"lr_warmup_iters {self.lr_warmup_iters} must be below train_iters {self.train_iters}")
        if self.lr_wsd_decay_iters is not None and self.lr_wsd_decay_fraction is not None:
            raise ValueError("lr_wsd_decay_iters and lr_wsd_decay_fraction say the same: give one")
        if self.lr_decay_style == "WSD" and self.wsd_decay_iters is None:
            raise ValueError("lr_decay_style WSD needs lr_wsd_decay_iters or lr_wsd_decay_fraction")
        if (self.wsd_decay_iters or 0) > self.train_iters - self.lr_warmup_iters:
            raise ValueError(
                f"lr_wsd_decay_iters {self.wsd_decay_iters} exceeds the "
                f"{self.train_iters - self.lr_warmup_iters} steps after the warm-up"
            )
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} exceeds lr {self.lr}")
        return self

    @property
    def wsd_decay_iters(self) -> int | None:
        """Steps of the decay at the end, given as a number or as a part of all; at least one."""
        if self.lr_wsd_decay_fraction is None:
            return self.lr_wsd_decay_iters
        return max(1, math.floor(self.lr_wsd_decay_fraction * self.train_iters + 0.5))
