"""Training from specs to a checkpoint: what pretrain, growth and moe share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pipelines.megatron import backend

# isort: split
from megatron.core import parallel_state

from pipelines.megatron.allocation import allocated_bytes
from pipelines.megatron.checkpoint import write_checkpoint, write_factors, write_optimizer
from pipelines.megatron.data import TrainingWindows, evaluation_windows, micro_batches, open_tokens
from pipelines.megatron.evaluation import evaluate
from pipelines.megatron.flops import BACKWARD_FACTOR, training_flops_per_token
from pipelines.megatron.gathering import (
    composed_layers,
    gather_factors,
    gather_moments,
    gather_parameters,
    trained_sizes,
)
from pipelines.megatron.initialisation import is_expert
from pipelines.megatron.layout import check_layout, default_micro_batch
from pipelines.megatron.masks import Masks, check_ramp, masked
from pipelines.megatron.model import Gpt, RouterBuilder, build_model
from pipelines.megatron.position_losses import Evaluation, write_position_losses
from pipelines.megatron.resuming import capture, restore
from pipelines.megatron.stepping import TrainingState, drain_losses, start, take_step
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.megatron.data import Evaluated
    from pipelines.megatron.optimizer import OptimizerState
    from pipelines.megatron.schedule import Schedule
    from pipelines.megatron.spec import ExpertSpec, ModelSpec, TrainingSpec
    from pipelines.runs.job import Job


class Watcher(Protocol):
    """What collects figures while the validation text passes."""

    def metrics(self) -> dict[str, float]:
        """The figures, equal on every rank."""
        ...


@dataclass(frozen=True)
class Ledger:
    """Tokens and operations of a run, on top of what the model had cost before."""

    tokens_offset: int
    flops_offset: int
    tokens_a_step: int
    flops_a_step: int

    def after(self, step: int) -> dict[str, int]:
        """Cumulative cost after a step."""
        return {
            "tokens": self.tokens_offset + step * self.tokens_a_step,
            "flops": self.flops_offset + step * self.flops_a_step,
        }


def train(
    model_spec: ModelSpec,
    experts: ExpertSpec | None,
    training: TrainingSpec,
    seed: int,
    tokens_dir: Path,
    job: Job,
    *,
    micro_batch_size: int | None = None,
    initial: Mapping[str, Tensor] | None = None,
    router_builder: RouterBuilder | None = None,
    prepare: Callable[[Gpt], None] | None = None,
    masks: Masks | None = None,
    moe_method: dict[str, Any] | None = None,
    pretrain_method: dict[str, Any] | None = None,
    extra_forward_flops: int = 0,
    flops_offset: int = 0,
    tokens_offset: int = 0,
    start_sequence: int = 0,
    schedule: Schedule | None = None,
    optimizer_state: OptimizerState | None = None,
    evaluate_start: bool = False,
    on_log: Callable[[Gpt], dict[str, Any]] | None = None,
    watch: Callable[[Gpt], AbstractContextManager[Watcher]] | None = None,
) -> dict[str, Any]:
    """Train a model, write its checkpoint and position_losses.npz to ``job.out``, and return the final metrics.

    A job that was killed goes on after the last step it had saved, to the same bits. With no step to take, the
    model is left as it started: evaluated, and without a training loss.

    Args:
        seed: seeds initial weights (with each parameter's global name) and data order (with the step).
        tokens_dir: artifact of ``tokenizer tokenize``.
        micro_batch_size: sequences a forward pass where the loss depends on it (auxiliary losses); a dense model
            takes the execution's.
        initial: global name -> tensor to start from, in place of random weights.
        router_builder, prepare: as in ``build_model``.
        masks: what parameters are multiplied by while they are let in (see ``megatron/masks.py``).
        moe_method, pretrain_method: recorded in the checkpoint, for those who load it.
        extra_forward_flops: operations a token that a method adds to the forward pass.
        flops_offset, tokens_offset: what the model has cost before (a base model's run).
        start_sequence: sequences of this seed's order that run has used; this one goes on after them.
        schedule: the learning rate of its ``training.train_iters`` steps; default: the training's own.
        optimizer_state: what AdamW starts with, in place of zero moments.
        evaluate_start: evaluate before the first step, too (on the text of the evaluations on the way).
        on_log: called with the model on every rank at each log line; what it returns joins the line, and the last
            one the final metrics.
        watch: called with the model on every rank before each evaluation; its context is open while the validation
            text passes, and what the entered object's ``metrics()`` then returns joins the validation metrics.

    Returns:
        train_loss, val_loss, val_bits_per_byte, tokens, flops, num_parameters (those trained), state_bytes (see
        ``allocation``); with experts also num_active_parameters and the auxiliary losses; with evaluate_start the
        validation loss there as start_loss.

    Raises:
        RetraceError: layout, data or initial weights do not fit.
    """
    if experts is not None and micro_batch_size is None:
        raise RetraceError("training a mixture of experts needs micro_batch_size in its spec: its loss depends on it")
    layout = check_layout(job.execution, experts, model_spec, training, micro_batch_size)
    artifact = open_tokens(tokens_dir)
    windows = TrainingWindows(artifact.split("train").tokens, model_spec.seq_length, seed, start_sequence)
    text = interim = evaluation_windows(artifact, model_spec.seq_length, training.eval_tokens)
    if training.interim_eval_tokens is not None:
        interim = evaluation_windows(artifact, model_spec.seq_length, training.interim_eval_tokens)
    backend.initialize(job.execution, experts)

    ranks, batch = layout.data_parallel_size, training.global_batch_size
    micro_batch = micro_batch_size or job.execution.micro_batch_size
    micro_batch = micro_batch or default_micro_batch(batch, ranks, layout.pipeline_model_parallel_size)
    tokens_a_step = batch * model_spec.seq_length
    flops_a_token = training_flops_per_token(model_spec, artifact.vocab_size, experts)
    flops_a_token += BACKWARD_FACTOR * extra_forward_flops
    ledger = Ledger(tokens_offset, flops_offset, tokens_a_step, tokens_a_step * flops_a_token)
    model = build_model(
        model_spec,
        artifact.vocab_size,
        experts,
        seed=seed,
        router_builder=router_builder,
        prepare=prepare,
        initial=initial,
    )
    check_ramp(model, masks, training.train_iters)
    state = start(model, training, schedule, optimizer_state)
    state.masks = masks
    rank = parallel_state.get_data_parallel_rank()

    def validate(evaluated: Evaluated, prefix: str = "") -> dict[str, float]:
        with (
            masked(model, masks, state.step, training.train_iters),
            watch(model) if watch else nullcontext() as watcher,
        ):
            found = evaluate(state.model, evaluated, micro_batch, training.precision)
        spent, lr = ledger.after(state.step)["tokens"], state.optimizer.param_groups[0]["lr"]
        state.evaluations.append(Evaluation(state.step, spent, lr, evaluated.counts, found.nats, found.squares))
        return found.metrics(prefix) | (watcher.metrics() if watcher else {})

    with job.resumable() as checkpoints:
        if (saved := checkpoints.load()) is not None:
            restore(state, saved)
        if evaluate_start and state.step == 0:
            job.log(step=0, **ledger.after(0), **validate(interim, "" if interim is text else "interim_"))
        with job.progress(training.train_iters, "train", done=state.step) as bar:
            while state.step < training.train_iters:
                batches = micro_batches(windows, state.step + 1, batch, micro_batch, rank, ranks)
                take_step(state, batches, training, micro_batch)
                last = state.step == training.train_iters
                if last or state.step % training.log_interval == 0:
                    state.logged = {**drain_losses(state), **(on_log(model) if on_log else {})}
                    update = {"lr": state.optimizer.param_groups[0]["lr"], "grad_norm": state.grad_norm}
                    job.log(step=state.step, **ledger.after(state.step), **state.logged, **update)
                due = training.eval_interval and (last or state.step % training.eval_interval == 0)
                if due and interim is not text:
                    job.log(step=state.step, **ledger.after(state.step), **validate(interim, "interim_"))
                if last or (due and interim is text):
                    state.validation = validate(text)
                    job.log(step=state.step, **ledger.after(state.step), **state.validation)
                bar.advance(1, note=f"loss {state.logged['loss']:.4f}")
                checkpoints.after_step(state.step, lambda: capture(state))
    if training.train_iters == 0:
        state.logged = {**drain_losses(state), "loss": None}
        state.validation = validate(text)

    sequences = training.train_iters * batch
    spent = ledger.after(training.train_iters)
    config = {
        "model": model_spec.model_dump(mode="json"),
        "experts": experts and experts.model_dump(mode="json"),
        "moe_method": moe_method,
        "pretrain_method": pretrain_method,
        "vocab_size": artifact.vocab_size,
        "tokenizer_key": artifact.tokenizer_key,
        "tokens_seen": spent["tokens"],
        "flops_spent": spent["flops"],
        "next_sequence": start_sequence + sequences,
        "last_lr": state.optimizer.param_groups[0]["lr"],
        "seed": seed,
    }
    if training.save_optim:
        _save_optimizer(state, job)
    _save(model, job, config)
    if job.is_main:
        write_position_losses(job.out, state.evaluations)
    sizes, memory = trained_sizes(model), allocated_bytes(state)
    job.record(
        **backend.layout(),
        **spent,
        micro_batch_size=micro_batch,
        flops_per_token=flops_a_token,
        state_bytes=memory,
        epochs=windows.epochs(sequences),
        eval_tokens=text.num_tokens,
        eval_bytes_exact=text.exact,
    )
    loss = state.logged.pop("loss")
    final = {"train_loss": loss, **state.validation, **spent, "num_parameters": sum(sizes.values()), **state.logged}
    final["state_bytes"] = sum(memory.values())
    if evaluate_start:
        final["start_loss"] = state.evaluations[0].loss
    if experts is not None:
        expert_sizes = sum(size for name, size in sizes.items() if is_expert(name))
        idle = expert_sizes * (experts.num_moe_experts - experts.moe_router_topk) // experts.num_moe_experts
        final["num_active_parameters"] = final["num_parameters"] - idle
    return final


def _save_optimizer(state: TrainingState, job: Job) -> None:
    """Write the optimizer's moments from rank 0 (all ranks call)."""
    moments = gather_moments(state.model.module, state.optimizer)
    step = int(next(iter(state.optimizer.optimizer.state.values()))["step"].item())
    if job.is_main:
        write_optimizer(job.out, step, moments)
    else:
        for _ in moments:
            pass


def _save(model: Gpt, job: Job, config: dict[str, Any]) -> None:
    """Write the checkpoint from rank 0 (all ranks call): dense weights, and what they are composed of beside them."""
    factored = bool(composed_layers(model))
    if job.is_main:
        if factored:
            write_factors(job.out, gather_factors(model))
        write_checkpoint(job.out, config, gather_parameters(model))
    else:
        for _ in gather_factors(model) if factored else ():
            pass
        for _ in gather_parameters(model):
            pass
    torch.distributed.barrier()
