"""What an unfinished sequence needs besides its place: weights, AdamW's moments, and the method's state.

Random numbers are not part of it: every step seeds its own from (seed, place, step).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pipelines.runs import adamw_state

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from pipelines.continual.protocol import Strategy
    from pipelines.runs.adamw_state import Parameters, Tensors


def capture(trainable: Parameters, optimizer: Optimizer | None, strategy: Strategy) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and JSON facts to continue from.

    Args:
        optimizer: of the task under training; None between tasks, when the next one starts with a fresh optimiser.
    """
    tensors = adamw_state.capture(trainable, optimizer)
    state = strategy.state_dict()
    tensors |= {f"strategy/{name}": value for name, value in state.items() if isinstance(value, torch.Tensor)}
    return tensors, {name: value for name, value in state.items() if not isinstance(value, torch.Tensor)}


def strategy_state(tensors: Tensors, facts: dict[str, Any]) -> dict[str, Any]:
    """What the captured strategy's ``state_dict`` gave."""
    prefix = "strategy/"
    return facts | {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
