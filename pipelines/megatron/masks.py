"""Parameters that a forward pass sees multiplied by a mask, which changes with the step.

The parameters stay what they are: they are multiplied in place for the passes of one step and put back afterwards, and
their gradients are multiplied too, as the chain rule has it. So any kernel, layout and checkpoint works as without
masks, and a job that goes on after a kill has the mask of its step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.megatron.initialisation import global_names
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.megatron.model import Gpt

Masks = Callable[[Mapping[str, "Tensor"], int, int], Mapping[str, "Tensor | float"]]
"""(global name -> parameter, steps behind, steps of the training) -> factor of each masked by then; it broadcasts."""


@contextmanager
def masked(model: Gpt, masks: Masks | None, iteration: int, train_iters: int) -> Iterator[None]:
    """A context in which the model's parameters are masked as after ``iteration`` of ``train_iters`` steps.

    On leaving it the parameters are to the bit what they were, and gradients gathered inside are those of the
    unmasked parameters.
    """
    if masks is None:
        yield
        return
    parameters = _by_global_name(model)
    factors = {
        name: torch.as_tensor(factor, dtype=torch.float32, device=parameters[name].device)
        for name, factor in masks(parameters, iteration, train_iters).items()
    }
    before = {name: parameters[name].detach().clone() for name in factors}
    try:
        with torch.no_grad():
            for name, factor in factors.items():
                parameters[name].mul_(factor)
        yield
    finally:
        with torch.no_grad():
            for name, factor in factors.items():
                parameters[name].copy_(before[name])
                # megatron's data parallelism sums gradients in a buffer of its own.
                gradient = getattr(parameters[name], "main_grad", None)
                if gradient is not None:
                    gradient.mul_(factor)


def check_ramp(model: Gpt, masks: Masks | None, train_iters: int) -> None:
    """Refuse a mask that is still there after the last step: the checkpoint would be another function.

    Raises:
        RetraceError: says how to make room.
    """
    if masks is None:
        return
    for name in masks(_by_global_name(model), train_iters, train_iters):
        raise RetraceError(
            f"after the {train_iters} steps of this training {name} would still be masked: make method.ramp_iters "
            "smaller, or train for longer"
        )


def _by_global_name(model: Gpt) -> dict[str, Tensor]:
    names = global_names(model)
    return {names[local]: parameter for local, parameter in model.named_parameters()}
