"""Matrix products in the library that is fast on this processor.

torch sends float32 products on the CPU to MKL, which on AMD processors runs at half of what oneDNN reaches (100 against
205 GFLOP/s, 1024 cubed, one core of a recent EPYC); bfloat16 ones go to oneDNN already. Both round alike: the error
against float64 is the same. Small products stay with MKL, which starts faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGE = 2**21
"""Multiplications from which oneDNN is the faster."""


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` for [m, k] and [k, n]; not recorded by autograd (for use inside custom operations)."""
    if _onednn(left, right):
        out: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
        return out
    return left @ right


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """``grad^T x`` for [T, n] and [T, m]: the gradient of a weight [n, m]."""
    if _onednn(grad, x) and grad.shape[1] > x.shape[1]:
        # oneDNN copies its first factor in order; let it be the narrower one.
        return product(x.t(), grad).t()
    return product(grad.t(), x)


def _onednn(left: Tensor, right: Tensor) -> bool:
    return (
        left.dtype is torch.float32
        and left.device.type == "cpu"
        and left.shape[0] * left.shape[1] * right.shape[1] >= LARGE
        and torch.backends.mkldnn.is_available()
    )
