"""Bytes that the state of a training takes: parameters, gradients, AdamW's moments, and indices of sparse weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipelines.megatron import backend

# isort: split
from megatron.core import parallel_state

from pipelines.megatron.gathering import composed_layers
from pipelines.megatron.optimizer import MOMENTS

if TYPE_CHECKING:
    from pipelines.megatron.stepping import TrainingState

KINDS = ("parameters", "gradients", "moments", "indices")


def allocated_bytes(state: TrainingState) -> dict[str, int]:
    """Bytes of the tensors as they lie in memory, of one copy of the model: the same on any layout.

    Counted where nothing is left to be allocated, at the end of a training. Activations are not in it, nor the
    composed weights of layers trained in factors: they come and go with each micro-batch. Every rank must call.
    """
    model, optimizer = state.model.module, state.optimizer.optimizer
    dense_copy = parallel_state.get_data_parallel_rank() == 0
    expert_copy = parallel_state.get_expert_data_parallel_rank() == 0
    counts = dict.fromkeys(KINDS, 0)
    for parameter in model.parameters():
        counted = dense_copy if getattr(parameter, "allreduce", True) else expert_copy
        # A head tied to the embedding of another stage is that embedding.
        if counted and not getattr(parameter, "shared", False):
            counts["parameters"] += parameter.nbytes
            counts["gradients"] += parameter.main_grad.nbytes
            counts["moments"] += sum(optimizer.state[parameter][kind].nbytes for kind in MOMENTS)
    if dense_copy:
        parts = (tensor for layer in composed_layers(model).values() for _, tensor in layer.factor_tensors())
        counts["indices"] += sum(tensor.nbytes for tensor in parts if not tensor.is_floating_point())
    total = torch.tensor([counts[kind] for kind in KINDS], dtype=torch.int64, device=backend.device())
    torch.distributed.all_reduce(total)
    return dict(zip(KINDS, total.tolist(), strict=True))
