"""A model spread over pipeline and expert ranks, gathered on the first rank as one set of global tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.megatron import backend
from pipelines.megatron.checkpoint import in_order
from pipelines.megatron.initialisation import global_names
from pipelines.megatron.optimizer import MOMENTS

if TYPE_CHECKING:
    from pipelines.megatron.model import Gpt
    from pipelines.megatron.optimizer import AdamW


def gather_parameters(model: Gpt) -> Iterator[tuple[str, Tensor]]:
    """(global name, full tensor) of the whole model in its order; yields on rank 0 alone, every rank must iterate.

    Each tensor comes from the lowest rank that holds it, one at a time.
    """
    parameters = dict(model.named_parameters())
    return _gather({name: parameters[local].detach() for local, name in global_names(model).items()})


def gather_moments(model: Gpt, optimizer: AdamW) -> Iterator[tuple[str, Tensor]]:
    """("exp_avg/<global name>" or "exp_avg_sq/<global name>", full tensor), as ``gather_parameters`` does it."""
    parameters, states = dict(model.named_parameters()), optimizer.optimizer.state
    for kind in MOMENTS:
        mine = {name: states[parameters[local]][kind] for local, name in global_names(model).items()}
        for name, tensor in _gather(mine):
            yield f"{kind}/{name}", tensor


def _gather(mine: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    rank = torch.distributed.get_rank()
    shapes = {name: tuple(tensor.shape) for name, tensor in mine.items()}
    held: list[dict[str, tuple[int, ...]]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(held, shapes)
    owners: dict[str, int] = {}
    for owner, names in enumerate(held):
        for name in names:
            owners.setdefault(name, owner)
    for name in in_order(owners):
        owner = owners[name]
        if rank == 0 and owner == 0:
            yield name, mine[name]
        elif rank == 0:
            received = torch.empty(held[owner][name], device=backend.device())
            torch.distributed.recv(received, src=owner)
            yield name, received
        elif rank == owner:
            torch.distributed.send(mine[name].contiguous(), dst=0)
