"""Sequential finetuning: one model, or one LoRA adapter, trained on the tasks one after another.

The baseline of every continual-learning paper. A fresh AdamW starts with every task, weights carry over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.continual.protocol import Strategy

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class FineTuning:
    """Plain sequential finetuning has no hyper-parameters of its own."""

    def start(self, model: nn.Module, seed: int) -> Strategy:
        """Nothing to add to the loop."""
        return Strategy()
