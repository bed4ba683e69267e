"""What a continual-learning method adds to plain finetuning on one task after another.

A method file holds the frozen hyper-parameters; ``start`` gives the object that lives through one job. The loop of
``pipelines.continual.finetune`` calls its hooks in this order, for every task:

    begin_task
      every optimiser step:
        before_forward, after_forward     for every micro-batch, around its forward pass
        after_backward                    all gradients of the step are there, not yet clipped
        before_step                       gradients are clipped
        after_step                        weights and optimiser state have moved
    end_task

and ``detach`` once, before the model is saved. ``Strategy`` itself does nothing: it is plain finetuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class TokenMasks:
    """Which positions of a micro-batch hold real tokens (1) and which are padding (0).

    Attributes:
        encoder_BS: the decoder's own input where a model has no encoder; B examples, S positions.
        decoder_BS: the decoder's input of an encoder-decoder model, else None.
    """

    encoder_BS: Tensor
    decoder_BS: Tensor | None = None


class Strategy:
    """A method at work in one job; every hook does nothing unless a method says otherwise."""

    def begin_task(self, task_index: int, optimizer: Optimizer) -> None:
        """A task starts with a fresh optimiser; ``task_index`` counts from 0."""

    def before_forward(self, tokens: TokenMasks) -> None:
        """A training micro-batch is about to go through the model."""

    def after_forward(self) -> None:
        """The forward pass is over, its backward pass is not yet run."""

    def after_backward(self) -> None:
        """The gradients of the whole step are accumulated, before clipping."""

    def before_step(self) -> None:
        """Gradients are clipped, the optimiser is about to step."""

    def after_step(self) -> None:
        """The optimiser has stepped."""

    def end_task(self) -> None:
        """The task's last step is done, before evaluation."""

    def detach(self) -> None:
        """Remove every hook from the model, which is about to be saved."""

    def metrics(self) -> dict[str, float]:
        """Final metrics of the method's own."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed job needs: names with tensors, or with what JSON holds (numbers, strings, lists, dicts)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up an interrupted job: after ``begin_task`` inside a task, before it between two; tensors on the CPU."""


class Method(Protocol):
    """A file of ``methods/``: frozen hyper-parameters that start a strategy."""

    def start(self, model: nn.Module, seed: int) -> Strategy:
        """Prepare for training ``model`` (with its LoRA layers, if any); must leave the global random state alone."""
        ...
