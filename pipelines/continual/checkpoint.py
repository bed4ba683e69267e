"""What an unfinished sequence needs besides its place: weights, AdamW's moments, and the method's state.

Random numbers are not part of it: every step seeds its own from (seed, place, step).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from pipelines.continual.protocol import Strategy

Tensors = dict[str, torch.Tensor]
Parameters = dict[str, torch.nn.Parameter]


def capture(trainable: Parameters, optimizer: Optimizer | None, strategy: Strategy) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and JSON facts to continue from.

    Args:
        optimizer: of the task under training; None between tasks, when the next one starts with a fresh optimiser.
    """
    tensors = {f"weight/{name}": parameter.detach() for name, parameter in trainable.items()}
    if optimizer is not None:
        for name, parameter in trainable.items():
            tensors |= {f"{kind}/{name}": value for kind, value in optimizer.state.get(parameter, {}).items()}
    state = strategy.state_dict()
    tensors |= {f"strategy/{name}": value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in state.items() if not isinstance(value, torch.Tensor)}


def restore_weights(tensors: Tensors, trainable: Parameters) -> None:
    """Put captured weights into the parameters."""
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(tensors[f"weight/{name}"])


def restore_optimizer(tensors: Tensors, trainable: Parameters, optimizer: Optimizer) -> None:
    """Put captured moments and step counts into a fresh AdamW; a weight that never had a gradient has none."""
    for kind in ("step", "exp_avg", "exp_avg_sq"):
        for name, parameter in trainable.items():
            if f"{kind}/{name}" in tensors:
                optimizer.state[parameter][kind] = tensors[f"{kind}/{name}"].to(parameter.device)


def strategy_state(tensors: Tensors, facts: dict[str, Any]) -> dict[str, Any]:
    """What the captured strategy's ``state_dict`` gave."""
    prefix = "strategy/"
    return facts | {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
