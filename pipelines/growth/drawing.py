"""New weights as a model trained from scratch would start with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.growth.depth import OUTPUT_PROJECTIONS
from pipelines.megatron.seeds import seed_of

if TYPE_CHECKING:
    from torch import Generator

    from pipelines.megatron.spec import ModelSpec


def initial_std(model: ModelSpec, name: str) -> float:
    """Standard deviation of a matrix at the start of training (``megatron/initialisation.py``)."""
    scale = (2 * model.num_layers) ** -0.5 if name.endswith(OUTPUT_PROJECTIONS) else 1.0
    return model.init_method_std * scale


def generator_of(seed: int, name: str) -> Generator:
    """A parameter's own source of random numbers, whatever else is drawn."""
    import torch

    return torch.Generator().manual_seed(seed_of(seed, name))
