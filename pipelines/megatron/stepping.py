"""One optimiser step: megatron's schedule over micro-batches, gradient reduction, clipping, update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipelines.megatron import backend

# isort: split
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.moe.moe_utils import clear_aux_losses_tracker, get_moe_layer_wise_logging_tracker

from pipelines.megatron.masks import Masks, masked
from pipelines.megatron.optimizer import AdamW, OptimizerState, Scheduler, build_optimizer, load_state
from pipelines.megatron.schedule import Schedule

if TYPE_CHECKING:
    from pipelines.megatron.model import Gpt
    from pipelines.megatron.position_losses import Evaluation
    from pipelines.megatron.spec import TrainingSpec


@dataclass
class TrainingState:
    """Everything that changes while a model trains; ``resuming`` puts it aside and takes it up again."""

    model: DistributedDataParallel
    optimizer: AdamW
    scheduler: Scheduler
    masks: Masks | None = None
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    """Mean loss of each micro-batch since the last log line (on the last pipeline stage)."""
    forward_passes: int = 0
    """Micro-batches since the last log line."""
    grad_norm: float = 0.0
    logged: dict[str, Any] = field(default_factory=lambda: {"loss": float("nan")})
    """Losses of the last log line."""
    validation: dict[str, Any] = field(default_factory=dict)
    """Metrics of the last evaluation."""
    evaluations: list[Evaluation] = field(default_factory=list)
    """Loss by position of every evaluation so far."""


def start(
    model: Gpt, training: TrainingSpec, schedule: Schedule | None = None, optimizer_state: OptimizerState | None = None
) -> TrainingState:
    """Wrap a model for training: megatron's data parallelism, optimizer and scheduler.

    Args:
        schedule: default: the training's own, from its start.
        optimizer_state: what AdamW starts with; default: zero moments and step 0.

    Raises:
        RetraceError: optimizer state of another model.
    """
    # megatron keeps auxiliary losses in one place a process, sized for the layers of the model before.
    get_moe_layer_wise_logging_tracker().clear()
    plain = DistributedDataParallelConfig(grad_reduce_in_fp32=True, overlap_grad_reduce=False)
    wrapped = DistributedDataParallel(model.config, plain, model)
    model.config.finalize_model_grads_func = finalize_model_grads
    model.config.no_sync_func = wrapped.no_sync
    optimizer = build_optimizer(model, training)
    if optimizer_state is not None:
        load_state(optimizer, model, optimizer_state)
    return TrainingState(wrapped, optimizer, Scheduler(optimizer, schedule or Schedule((training,))))


def take_step(
    state: TrainingState, batches: Iterator[tuple[Tensor, Tensor]], training: TrainingSpec, micro_batch: int
) -> None:
    """Advance the state by one optimiser step over this rank's share of the global batch."""
    per_rank = training.global_batch_size // parallel_state.get_data_parallel_world_size()
    autocast = training.precision == "bf16"
    state.model.zero_grad_buffer()
    # The update leaves param.grad an alias of the buffer, where the next backward pass would count itself twice.
    state.optimizer.zero_grad()

    def forward(data: Iterator[tuple[Tensor, Tensor]], model: torch.nn.Module) -> tuple[Tensor, Any]:
        inputs, labels = (each.to(backend.device()) for each in next(data))
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=autocast):
            output = model(inputs, labels=labels)
        return output, lambda summed: _mean(summed, labels.numel())

    with masked(state.model.module, state.masks, state.step, training.train_iters):
        losses = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=batches,
            model=state.model,
            num_microbatches=per_rank // micro_batch,
            seq_length=state.model.module.max_sequence_length,
            micro_batch_size=micro_batch,
            forward_only=False,
        )
    state.step += 1
    state.scheduler.step(1)
    if state.scheduler.schedule.restarts(state.step):
        state.optimizer.optimizer.reset()
    _, state.grad_norm, _ = state.optimizer.step()
    state.losses.extend(losses)
    state.forward_passes += per_rank // micro_batch


def drain_losses(state: TrainingState) -> dict[str, float]:
    """Mean loss since the last call, over all ranks, and (MoE) the mean auxiliary losses; every rank must call.

    Returns:
        loss in nats a token, and one entry an auxiliary loss (before its coefficient), averaged over layers.
    """
    ranks = parallel_state.get_data_parallel_world_size()
    trackers = {name: each["values"] for name, each in get_moe_layer_wise_logging_tracker().items()}
    num_layers = state.model.module.config.num_layers
    mine = [torch.stack(state.losses).mean() if state.losses else torch.zeros((), device=backend.device())]
    mine += [trackers[name].sum() / num_layers for name in sorted(trackers)]
    values = torch.stack(mine).double()
    # Only one pipeline stage has the loss, and each has its own layers: a sum over all ranks, shared by replicas.
    torch.distributed.all_reduce(values)
    values /= ranks
    values[1:] /= max(state.forward_passes, 1)
    state.forward_passes = 0
    state.losses.clear()
    clear_aux_losses_tracker()
    loss, *auxiliary = values.tolist()
    return {"loss": loss, **dict(zip(sorted(trackers), auxiliary, strict=True))}


def _mean(summed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    mean = summed / count
    # The schedule divides the first in place by the number of micro-batches.
    return mean, mean.detach().clone()
