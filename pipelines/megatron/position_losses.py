"""Validation loss by position in the sequence, at every evaluation of a training. Imports no torch.

``position_losses.npz`` beside a checkpoint; E evaluations in the order they were made, S positions:
step, tokens (trained on, a base model's included), lr [E]; counts [E, S] predicted tokens at each position;
nats, squares [E, S] sums of their negative log-likelihood in nats and of its square. Position i (from 1) is predicted
from i tokens. Counts differ by one at most, and where an evaluation had another text (the last, say).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pipelines.runs.errors import RetraceError

POSITION_LOSSES = "position_losses.npz"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation: where training was, and the loss at each of S positions.

    Attributes:
        step, tokens: optimiser steps and training tokens before it.
        lr: learning rate of the step before it.
        counts: [S] predicted tokens.
        nats, squares: [S] sums over them of the negative log-likelihood in nats, and of its square.
    """

    step: int
    tokens: int
    lr: float
    counts: NDArray[Any]
    nats: NDArray[Any]
    squares: NDArray[Any]

    @property
    def loss(self) -> float:
        """The validation loss in nats a token: the mean of the positions, weighted by their counts."""
        return math.fsum(self.nats.tolist()) / int(self.counts.sum())

    @property
    def means(self) -> NDArray[Any]:
        """[S] loss at each position in nats; NaN where nothing was predicted."""
        with np.errstate(invalid="ignore"):
            means: NDArray[Any] = self.nats / self.counts
        return means

    @property
    def standard_errors(self) -> NDArray[Any]:
        """[S] standard error of each mean, from the scatter of its tokens; NaN for fewer than two."""
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.maximum(self.squares - self.counts * self.means**2, 0) / (self.counts - 1)
            errors: NDArray[Any] = np.sqrt(spread / self.counts)
        return np.where(self.counts > 1, errors, np.nan)


def pack(evaluations: Sequence[Evaluation]) -> dict[str, NDArray[Any]]:
    """The arrays of the file, from at least one evaluation."""
    return {each.name: np.stack([getattr(one, each.name) for one in evaluations]) for each in fields(Evaluation)}


def unpack(arrays: Mapping[str, NDArray[Any]]) -> list[Evaluation]:
    """The evaluations that ``pack`` made arrays of."""
    rows = zip(*(arrays[each.name] for each in fields(Evaluation)), strict=True)
    return [Evaluation(int(step), int(tokens), float(lr), *sums) for step, tokens, lr, *sums in rows]


def write_position_losses(folder: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write the file into an artifact's folder; the same evaluations give the same bytes."""
    np.savez(folder / POSITION_LOSSES, **pack(evaluations))  # type: ignore[arg-type]


def read_position_losses(artifact: Path) -> list[Evaluation]:
    """The evaluations of a trained model's artifact.

    Raises:
        RetraceError: the artifact has no such file, or a damaged one.
    """
    path = artifact / POSITION_LOSSES
    if not path.is_file():
        raise RetraceError(f"{path} is missing: give a folder that pretrain, growth or moe `train` made")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return unpack(arrays)
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as broken:
        raise RetraceError(f"{path} is damaged ({broken}): train the model again") from None
