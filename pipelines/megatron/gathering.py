"""A model spread over pipeline and expert ranks, gathered on the first rank as one set of global tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pipelines.megatron import backend
from pipelines.megatron.checkpoint import in_order
from pipelines.megatron.initialisation import global_name, global_names
from pipelines.megatron.optimizer import MOMENTS

if TYPE_CHECKING:
    from pipelines.megatron.model import Gpt
    from pipelines.megatron.optimizer import AdamW


def gather_parameters(model: Gpt) -> Iterator[tuple[str, Tensor]]:
    """(global name, full tensor) of the whole model in its order; yields on rank 0 alone, every rank must iterate.

    Each tensor comes from the lowest rank that holds it, one at a time. A layer trained in factors gives its weight.
    """
    parameters, composed = dict(model.named_parameters()), composed_layers(model)
    mine = {
        name: _held(parameters[local])
        for local, name in global_names(model).items()
        if local.rpartition(".")[0] not in composed
    }
    for local, layer in composed.items():
        mine[global_name(model, f"{local}.weight")] = _Held(
            layer.shape, torch.float32, partial(getattr, layer, "weight")
        )
    return _gather(mine)


def gather_factors(model: Gpt) -> Iterator[tuple[str, Tensor]]:
    """(global name, tensor) of what the weights of layers trained in factors are made of, as ``gather_parameters``."""
    return _gather(
        {
            global_name(model, f"{local}.{name}"): _held(tensor)
            for local, layer in composed_layers(model).items()
            for name, tensor in layer.factor_tensors()
        }
    )


def gather_moments(model: Gpt, optimizer: AdamW) -> Iterator[tuple[str, Tensor]]:
    """("exp_avg/<global name>" or "exp_avg_sq/<global name>", full tensor), as ``gather_parameters`` does it."""
    parameters, states = dict(model.named_parameters()), optimizer.optimizer.state
    for kind in MOMENTS:
        mine = {name: _held(states[parameters[local]][kind]) for local, name in global_names(model).items()}
        for name, tensor in _gather(mine):
            yield f"{kind}/{name}", tensor


def trained_sizes(model: Gpt) -> dict[str, int]:
    """Global name -> numbers in it, of every trained parameter of the whole model (every rank must call)."""
    parameters = dict(model.named_parameters())
    mine = {name: parameters[local].numel() for local, name in global_names(model).items()}
    held: list[dict[str, int]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(held, mine)
    return {name: size for each in held for name, size in each.items()}


def composed_layers(model: Gpt) -> dict[str, Any]:
    """Local name -> layer, of this rank's layers whose weight is composed of factors (see ``factored``)."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "factor_tensors")}


class _Held(NamedTuple):
    """A tensor of this rank, made when its turn comes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    get: Callable[[], Tensor]


def _held(tensor: Tensor) -> _Held:
    return _Held(tuple(tensor.shape), tensor.dtype, tensor.detach)


def _gather(mine: dict[str, _Held]) -> Iterator[tuple[str, Tensor]]:
    rank = torch.distributed.get_rank()
    kinds = {name: (each.shape, each.dtype) for name, each in mine.items()}
    held: list[dict[str, tuple[tuple[int, ...], torch.dtype]]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(held, kinds)
    owners: dict[str, int] = {}
    for owner, names in enumerate(held):
        for name in names:
            owners.setdefault(name, owner)
    for name in in_order(owners):
        owner = owners[name]
        if rank == 0 and owner == 0:
            yield name, mine[name].get().detach()
        elif rank == 0:
            shape, dtype = held[owner][name]
            received = torch.empty(shape, dtype=dtype, device=backend.device())
            torch.distributed.recv(received, src=owner)
            yield name, received
        elif rank == owner:
            torch.distributed.send(mine[name].get().detach().contiguous(), dst=0)
