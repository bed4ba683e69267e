"""Update only some output rows of every linear layer: the strategy behind ``migu``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipelines.continual.magnitudes import MagnitudeRecorder
from pipelines.continual.protocol import Strategy, TokenMasks
from pipelines.continual.row_masks import quantile_mask, random_mask, rank_mask

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from pipelines.continual.methods.migu import Migu


class MaskedUpdate(Strategy):
    """Rank rows in every step, mask the gradient of the small ones; with policy restore undo what still moved them.

    Attributes:
        masks: of the last step, in the order of ``recorder.sources``; True is kept.
        num_masked, num_leaked: rows masked so far, summed over steps, and those of them whose weights changed still.
    """

    def __init__(self, method: Migu, model: nn.Module, skip: set[str], seed: int) -> None:
        self.method = method
        self.seed = seed
        self.recorder = MagnitudeRecorder(model, skip, method.count_padding, method.normalise == "token")
        self.num_masked = 0
        self.num_leaked = 0
        self.masks: list[Tensor] = []
        self._task_index = 0
        self._step = 0
        self._saved: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def begin_task(self, task_index: int, optimizer: Optimizer) -> None:
        """Nothing is carried over from the task before."""
        self._task_index, self._optimizer, self._step = task_index, optimizer, 0
        self._active = task_index > 0 or self.method.mask_first_task

    def before_forward(self, tokens: TokenMasks) -> None:
        """Record this micro-batch."""
        if self._active:
            self.recorder.start(tokens)

    def after_forward(self) -> None:
        """Stop recording."""
        self.recorder.stop()

    def after_backward(self) -> None:
        """Make the step's masks; by default they apply before clipping, so the norm is of the masked gradient."""
        if not self._active:
            return
        self.masks = self._make_masks()
        self.recorder.reset()
        if self.method.clip_order == "after_mask":
            self._mask_gradients()

    def before_step(self) -> None:
        """Keep a copy of masked rows: to restore them, and to count those that leak."""
        if not self._active:
            return
        if self.method.clip_order == "before_mask":
            self._mask_gradients()
        frozen = self.method.policy == "restore" and self.method.moments == "frozen"
        for source, mask in zip(self.recorder.sources, self.masks, strict=True):
            moments = self._moments(source.weight) if frozen else {}
            rows = ~mask
            copies = {name: moment[rows] for name, moment in moments.items()}
            self._saved.append((rows, source.weight.detach()[rows], copies))

    def after_step(self) -> None:
        """Restore, or only count."""
        self._step += 1
        with torch.no_grad():
            self._settle()
        self._saved.clear()

    def _settle(self) -> None:
        for source, (rows, weights, moments) in zip(self.recorder.sources, self._saved, strict=False):
            if self.method.policy == "restore":
                source.weight[rows] = weights
                for name, copy in moments.items():
                    self._optimizer.state[source.weight][name][rows] = copy
            self.num_masked += len(weights)
            self.num_leaked += int((source.weight[rows] != weights).any(dim=-1).sum())

    def detach(self) -> None:
        """Leave the model as it was found."""
        self.recorder.detach()

    def metrics(self) -> dict[str, float]:
        """Share of masked rows, over all steps, whose weights moved although masked (0 when none was masked)."""
        return {"masked_rows_leaked_share": self.num_leaked / max(self.num_masked, 1)}

    def state_dict(self) -> dict[str, Any]:
        """Counts; masks are made anew every step."""
        return {"num_masked": self.num_masked, "num_leaked": self.num_leaked, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue counting."""
        self.num_masked, self.num_leaked, self._step = state["num_masked"], state["num_leaked"], state["step"]

    def _make_masks(self) -> list[Tensor]:
        threshold = self.method.threshold
        if self.method.selection == "random":
            # A generator of its own: the control must not shift dropout.
            state = np.random.SeedSequence([self.seed, self._task_index, self._step]).generate_state(1)[0]
            generator = torch.Generator().manual_seed(int(state))
            return [each.mask(lambda n: random_mask(n, threshold, generator)) for each in self.recorder.sources]
        rule = rank_mask if self.method.rule == "rank" else quantile_mask
        return [each.mask(lambda n: rule(n, threshold)) for each in self.recorder.sources]

    def _mask_gradients(self) -> None:
        for source, mask in zip(self.recorder.sources, self.masks, strict=True):
            if source.weight.grad is not None:
                source.weight.grad.masked_fill_(~mask.unsqueeze(-1), 0.0)

    def _moments(self, weight: nn.Parameter) -> dict[str, Tensor]:
        """Optimiser state of the weight's own shape; before the first step, rows that are masked have zero moments."""
        state = self._optimizer.state.get(weight, {})
        return {
            name: value
            for name, value in state.items()
            if isinstance(value, torch.Tensor) and value.shape == weight.shape
        }
