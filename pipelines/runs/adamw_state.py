"""Weights and AdamW's state as the named tensors of a checkpoint, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.optim import Optimizer

Tensors = dict[str, torch.Tensor]
Parameters = dict[str, torch.nn.Parameter]
STATE = ("step", "exp_avg", "exp_avg_sq")


def capture(trained: Parameters, optimizer: Optimizer | None) -> Tensors:
    """``weight/NAME`` of every parameter, and of those that ever had a gradient AdamW's ``step/NAME`` and moments.

    Args:
        optimizer: None where the next step starts with a fresh one.
    """
    tensors = {f"weight/{name}": parameter.detach() for name, parameter in trained.items()}
    if optimizer is not None:
        for name, parameter in trained.items():
            tensors |= {f"{kind}/{name}": value for kind, value in optimizer.state.get(parameter, {}).items()}
    return tensors


def restore_weights(tensors: Tensors, trained: Parameters) -> None:
    """Put captured weights into the parameters."""
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"weight/{name}"])


def restore_optimizer(tensors: Tensors, trained: Parameters, optimizer: Optimizer) -> None:
    """Put captured moments and step counts into a fresh AdamW; a weight that never had a gradient has none."""
    for kind in STATE:
        for name, parameter in trained.items():
            if f"{kind}/{name}" in tensors:
                optimizer.state[parameter][kind] = tensors[f"{kind}/{name}"].to(parameter.device)
