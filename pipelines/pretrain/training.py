"""``pretrain train``: a model from random weights, its linear layers in the form that a method gives them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.megatron import training
from pipelines.megatron.data import open_tokens
from pipelines.pretrain.memory import published_bytes
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from pipelines.megatron.model import Gpt
    from pipelines.pretrain.protocol import PretrainMethod
    from pipelines.pretrain.spec import TrainSpec
    from pipelines.runs.job import Job


def train(spec: TrainSpec, inputs: dict[str, Path], job: Job) -> dict[str, Any]:
    """Train and write the checkpoint, whose weights are dense whatever they were composed of.

    Returns:
        the final metrics of ``megatron.training.train``, and val_perplexity (of a token) and bf16_state_bytes (see
        ``memory.published_bytes``).

    Raises:
        RetraceError: the method's hyper-parameters do not fit the model.
    """
    method: PretrainMethod = load_method("pretrain", spec.method)
    plan = spec.training
    if plan.save_optim and method.composes:
        raise RetraceError(
            "training.save_optim: moments of factors are not those of the dense weights that growth takes over; "
            "leave it out, or choose method dense"
        )
    if spec.train_bytes is not None:
        plan = plan.model_copy(update=length(spec, inputs["tokens"]))
    job.record(train_iters=plan.train_iters)

    def prepare(model: Gpt) -> None:
        method.attach(model, spec.model, spec.seed)

    tokens_a_step = plan.global_batch_size * spec.model.seq_length
    final = training.train(
        spec.model,
        None,
        plan,
        spec.seed,
        inputs["tokens"],
        job,
        prepare=prepare,
        pretrain_method=spec.method,
        extra_forward_flops=math.ceil(method.extra_flops_per_step(spec.model) / tokens_a_step),
    )
    num_indices = method.num_indices(spec.model)
    job.record(num_indices=num_indices)
    counted = method.num_parameters(spec.model, open_tokens(inputs["tokens"]).vocab_size)
    final["val_perplexity"] = math.exp(final["val_loss"])
    final["bf16_state_bytes"] = published_bytes(counted, num_indices)
    return final


def length(spec: TrainSpec, tokens: Path) -> dict[str, int]:
    """Steps and warm-up of a budget of bytes; without bytes the model keeps its random weights."""
    if spec.train_bytes == 0:
        return {"train_iters": 0, "lr_warmup_iters": 0}
    return {"train_iters": iterations(spec, tokens)}


def iterations(spec: TrainSpec, tokens: Path) -> int:
    """Optimiser steps that read ``train_bytes`` of text, to the nearest step.

    Tokenizers cut the same text into different numbers of tokens; a budget of bytes gives each the same text.

    Raises:
        RetraceError: the budget does not reach past the warm-up.
    """
    assert spec.train_bytes is not None
    read = json.loads((tokens / "tokens.json").read_text(encoding="utf-8"))["splits"]["train"]
    bytes_a_step = spec.training.global_batch_size * spec.model.seq_length * read["num_bytes"] / read["num_tokens"]
    steps = math.floor(spec.train_bytes / bytes_a_step + 0.5)
    if steps <= spec.training.lr_warmup_iters:
        raise RetraceError(
            f"train_bytes {spec.train_bytes} are {steps} steps, not more than training.lr_warmup_iters "
            f"{spec.training.lr_warmup_iters}: raise train_bytes or shorten the warm-up"
        )
    return steps
