"""New weights: drawn as a model trained from scratch starts, and no numbers that the base itself started with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.growth.depth import OUTPUT_PROJECTIONS
from pipelines.megatron.seeds import seed_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor

    from pipelines.megatron.spec import ModelSpec


def initial_std(model: ModelSpec, name: str) -> float:
    """Standard deviation of a matrix at the start of training (``megatron/initialisation.py``)."""
    scale = (2 * model.num_layers) ** -0.5 if name.endswith(OUTPUT_PROJECTIONS) else 1.0
    return model.init_method_std * scale


def generator_of(seed: int, name: str) -> Generator:
    """A grown parameter's own source of random numbers.

    Not ``seed_of(seed, name)``, from which a base of the same seed has drawn its initial weights.
    """
    import torch

    return torch.Generator().manual_seed(seed_of(seed, f"growth/{name}"))


def normal(shape: Sequence[int], std: float, generator: Generator) -> Tensor:
    """Normal numbers in float32, so that a model grows alike in every dtype."""
    import torch

    return torch.empty(tuple(shape)).normal_(0.0, std, generator=generator)
