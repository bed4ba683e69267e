"""Which output rows of a weight may move: masks from magnitudes.

A mask is True for a row that is kept (updated). Shapes: ... leading dimensions (experts, fused parts), R output rows.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def num_masked(num_rows: int, threshold: float) -> int:
    """Rows masked out of ``num_rows``: floor(T d_out), with T read as the decimal it is written as.

    In binary floating point 0.29 * 100 is below 29; the decimal 0.29 masks 29 rows of 100.
    """
    return math.floor(Fraction(str(threshold)) * num_rows)


def rank_mask(magnitudes_R: Tensor, threshold: float) -> Tensor:
    """Keep exactly R - floor(T R) rows, the largest; of equal magnitudes the higher index is kept first.

    Args:
        magnitudes_R: [..., R], any non-negative scale.
        threshold: T, the fraction masked, in [0, 1).
    """
    order_R = magnitudes_R.argsort(dim=-1, stable=True)
    masked = order_R[..., : num_masked(magnitudes_R.shape[-1], threshold)]
    return torch.ones_like(magnitudes_R, dtype=torch.bool).scatter_(-1, masked, False)


def quantile_mask(magnitudes_R: Tensor, threshold: float) -> Tensor:
    """Keep rows at or above the T-quantile (linear interpolation), as MIGU's released code does.

    Differs from ``rank_mask`` by one row for some R (R = 1024 at T = 0.7 keeps 307, not 308) and keeps all equals.
    """
    limit = torch.quantile(magnitudes_R, threshold, dim=-1, keepdim=True)
    return magnitudes_R >= limit


def random_mask(magnitudes_R: Tensor, threshold: float, generator: torch.Generator) -> Tensor:
    """Keep as many rows as ``rank_mask``, drawn uniformly: the control that tells selection from mere sparsity."""
    draws_R = torch.rand(magnitudes_R.shape, generator=generator, device=generator.device)
    return rank_mask(draws_R.to(magnitudes_R.device), threshold)
