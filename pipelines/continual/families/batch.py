"""Padded batches of examples and their loss, common to every kind of model.

Shapes: B examples, S positions, K label positions, C tokens or classes to choose from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn.functional import cross_entropy

from pipelines.continual.protocol import TokenMasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pipelines.continual.prompts import EncodedTask, Ids

IGNORED = -100
"""Label of a position that bears no loss, as in torch and transformers."""


@dataclass(frozen=True)
class Batch:
    """Examples ready for the model.

    Attributes:
        tensors: keyword arguments of the model's forward, batch first.
        options: further keyword arguments, not per example.
        labels_BK: right token or class at each label position, IGNORED elsewhere.
    """

    tensors: dict[str, Tensor]
    options: dict[str, Any]
    labels_BK: Tensor
    masks: TokenMasks

    def rows(self, first: int, last: int) -> Batch:
        """Examples ``first`` to ``last`` (excluded), padded as the whole batch is."""
        decoder_BS = self.masks.decoder_BS
        masks = TokenMasks(self.masks.encoder_BS[first:last], None if decoder_BS is None else decoder_BS[first:last])
        tensors = {name: tensor[first:last] for name, tensor in self.tensors.items()}
        return Batch(tensors, self.options, self.labels_BK[first:last], masks)

    @property
    def num_labels(self) -> int:
        """Label positions, over which a step's loss is averaged."""
        return int((self.labels_BK != IGNORED).sum())

    @property
    def num_tokens(self) -> int:
        """Real tokens that go through the model."""
        decoder_BS = self.masks.decoder_BS
        return int(self.masks.encoder_BS.sum()) + (0 if decoder_BS is None else int(decoder_BS.sum()))


class Family(Protocol):
    """A kind of model: how it is trained on a labelled example and asked for a label."""

    def collate(self, examples: Sequence[tuple[Ids, int]], task: EncodedTask) -> Batch:
        """Pad examples (prompt tokens, index of the right option) into a training batch."""
        ...

    def label_logits(self, batch: Batch) -> Tensor:
        """Run the model: logits_BKC over what each label position may be."""
        ...

    def predict(self, prompts: Sequence[Ids], task: EncodedTask) -> list[int]:
        """Index of the option the model prefers, for each prompt."""
        ...


def summed_loss(logits_BKC: Tensor, labels_BK: Tensor) -> Tensor:
    """Sum of the cross entropies (nats) over label positions; the caller divides by the step's count."""
    return cross_entropy(logits_BKC.float().flatten(0, 1), labels_BK.flatten(), ignore_index=IGNORED, reduction="sum")


def pad(rows: Sequence[Ids], fill: int, device: torch.device, *, left: bool = False) -> Tensor:
    """Token ids as a tensor [rows, longest row], filled at the right end (or the left)."""
    longest = max(map(len, rows))
    if left:
        padded = [[fill] * (longest - len(row)) + list(row) for row in rows]
    else:
        padded = [list(row) + [fill] * (longest - len(row)) for row in rows]
    return torch.tensor(padded, device=device)


def token_mask(rows: Sequence[Ids], device: torch.device, *, left: bool = False) -> Tensor:
    """1 where ``pad`` put a token and 0 where it put filling."""
    return pad([(1,) * len(row) for row in rows], 0, device, left=left)
