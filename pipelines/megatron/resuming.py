"""Training put aside after a step and taken up again to the same bits, by the same number of ranks in the same layout.

What a step reads is held: parameters and buffers (persistent or not), the optimizer's moments, the schedule's place,
random states, what has been summed since the last log line, and the loss by position of every evaluation. The data's
place follows from the step. Each rank holds its own part under its own, local names; a base model's weights are in
there and not needed again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipelines.megatron import backend

# isort: split
from megatron.core import tensor_parallel
from megatron.core.transformer.moe.moe_utils import get_moe_layer_wise_logging_tracker

from pipelines.megatron.position_losses import pack, unpack

if TYPE_CHECKING:
    from pipelines.megatron.stepping import TrainingState
    from pipelines.runs.checkpoints import Checkpoint

FACTS = ("forward_passes", "grad_norm", "logged", "validation")
LOSSES, AUXILIARY, TRACKED, EVALUATIONS = "losses", "auxiliary/", "random/tracked/", "evaluations/"


def capture(state: TrainingState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """This rank's part of a training, between two steps: tensors by name (not copied) and JSON facts."""
    tensors = {**_changed_in_place(state), "random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    for name, random_state in tensor_parallel.get_cuda_rng_tracker().get_states().items():
        tensors[TRACKED + name] = random_state
    for name, each in get_moe_layer_wise_logging_tracker().items():
        tensors[AUXILIARY + name] = each["values"]
    if state.losses:
        tensors[LOSSES] = torch.stack(state.losses)
    if state.evaluations:
        tensors |= {EVALUATIONS + name: torch.from_numpy(array) for name, array in pack(state.evaluations).items()}
    return tensors, {name: getattr(state, name) for name in FACTS}


@torch.no_grad()  # type: ignore[untyped-decorator]
def restore(state: TrainingState, saved: Checkpoint) -> None:
    """Make a training just started the one that was captured."""
    for name, tensor in _changed_in_place(state).items():
        tensor.copy_(saved.tensors[name])
    state.step = state.scheduler.num_steps = saved.step
    # The groups' learning rate and decay follow from the step.
    state.scheduler.step(0)
    for name in FACTS:
        setattr(state, name, saved.facts[name])
    state.losses = list(saved.tensors[LOSSES].to(backend.device())) if LOSSES in saved.tensors else []
    if evaluations := _under(EVALUATIONS, saved.tensors):
        state.evaluations = unpack({name: tensor.cpu().numpy() for name, tensor in evaluations.items()})
    auxiliary = get_moe_layer_wise_logging_tracker()
    for name, values in _under(AUXILIARY, saved.tensors).items():
        auxiliary[name] = {"values": values.to(backend.device())}
    torch.set_rng_state(saved.tensors["random/cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(saved.tensors["random/cuda"])
    tensor_parallel.get_cuda_rng_tracker().set_states(_under(TRACKED, saved.tensors))


def _changed_in_place(state: TrainingState) -> dict[str, Tensor]:
    model, moments = state.model.module, state.optimizer.optimizer.state
    tensors = {f"parameter/{name}": parameter.data for name, parameter in model.named_parameters()}
    tensors |= {f"buffer/{name}": buffer for name, buffer in model.named_buffers()}
    for name, parameter in model.named_parameters():
        tensors |= {f"optimizer/{name}/{key}": tensor for key, tensor in moments.get(parameter, {}).items()}
    return tensors


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
