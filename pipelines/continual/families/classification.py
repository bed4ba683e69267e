"""Encoders with a classification head shared by the whole sequence: one class for every label of every task.

Training: cross entropy over all classes. Prediction: the largest logit among the labels of the task at hand, as the
other kinds of models choose among the task's options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pipelines.continual.families.batch import Batch, pad, token_mask
from pipelines.continual.protocol import TokenMasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from pipelines.continual.prompts import EncodedTask, Ids


class ClassificationFamily:
    """RobertaForSequenceClassification and other ``...ForSequenceClassification`` encoders of transformers."""

    def __init__(self, model: PreTrainedModel, padding: int) -> None:
        self.model = model
        self.padding = padding

    def collate(self, examples: Sequence[tuple[Ids, int]], task: EncodedTask) -> Batch:
        """Texts padded on the right; K is 1."""
        tensors = self._inputs([prompt for prompt, _ in examples])
        classes = [[task.label_indices[label]] for _, label in examples]
        labels_BK = torch.tensor(classes, device=self.model.device)
        return Batch(tensors, {}, labels_BK, TokenMasks(tensors["attention_mask"]))

    def label_logits(self, batch: Batch) -> Tensor:
        """Logits over all classes."""
        return self.model(**batch.tensors).logits.unsqueeze(1)

    def predict(self, prompts: Sequence[Ids], task: EncodedTask) -> list[int]:
        """The task's label of the largest logit; the first of equals."""
        logits_BC = self.model(**self._inputs(prompts)).logits
        return logits_BC[:, list(task.label_indices)].argmax(dim=1).tolist()

    def _inputs(self, prompts: Sequence[Ids]) -> dict[str, Tensor]:
        device = self.model.device
        return {"input_ids": pad(prompts, self.padding, device), "attention_mask": token_mask(prompts, device)}
