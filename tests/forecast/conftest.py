"""Made-up evaluations that follow a law exactly, or with the noise that tokens would give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.megatron.position_losses import Evaluation

NUM_POSITIONS = 64
SPREAD = 2.0


def evaluation(step: int, means, lr: float = 1.0, counts=None, noise=None) -> Evaluation:
    """An evaluation with these means, whose tokens scatter by SPREAD around them."""
    counts = np.full(len(means), 1000) if counts is None else np.asarray(counts)
    means = (
        np.asarray(means, dtype=float)
        if noise is None
        else means + noise.normal(size=len(means)) * SPREAD / np.sqrt(counts)
    )
    squares = counts * means**2 + (counts - 1) * SPREAD**2
    return Evaluation(step, step * 100, lr, counts, counts * means, squares)


def profile(a0: float, a1: float, a2: float, num_positions: int = NUM_POSITIONS):
    """The reciprocal law at positions 1 .. S."""
    return a0 / (1 + a1 * np.arange(1, num_positions + 1)) + a2


@pytest.fixture
def make() -> Callable[..., Evaluation]:
    return evaluation


@pytest.fixture
def reciprocal() -> Callable[..., np.ndarray]:
    return profile


@pytest.fixture
def cosine() -> Callable[[float], float]:
    """Learning rate over the share of training, from 1 to 0.1."""
    return lambda share: 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * share))
