"""Differentiable operations with hand-written backward passes: fewer and larger steps than autograd would record.

Each takes the compute type explicitly (bfloat16 under autocast, else the input's) and casts once for both passes.
Tests hold every one equal to its plain formula, in float64 by finite differences. T tokens, h hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pipelines.megatron.products import product, weight_gradient

IGNORED = -100
"""Label of positions that do not count."""
CHUNK_ELEMENTS = 2**20
"""Logits held at a time: 4 MB in float32, so that a chunk stays in the processor's cache."""


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The type matrix products run in: autocast's where it is on, else the tensor's."""
    kind = tensor.device.type
    dtype: torch.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype
    return dtype


class RmsNormalize(Function):
    """``y = x / sqrt(mean(x^2) + eps) * weight`` over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        h = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(h).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        h = x.shape[-1]
        normed = x * scale
        # With n = x * scale: dx = scale * (g w - n mean(g w n)), and dw sums g n over tokens.
        product = (grad * normed).view(-1, h)
        mean = torch.mv(product, weight).div_(-h).view(scale.shape)
        dx = torch.addcmul(grad * weight, normed, mean).mul_(scale)
        return dx, product.sum(0), None


class SwigluFeedForward(Function):
    """``(silu(x G^T) * (x U^T) [* scale]) fc2^T`` with fc1 = [G; U]; x [T, h], scale [T] or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, fc1: Tensor, fc2: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.types = x.dtype, fc1.dtype
        with torch.autocast(x.device.type, enabled=False):
            x, fc1, fc2 = x.to(dtype), fc1.to(dtype), fc2.to(dtype)
            mixed = product(x, fc1.t())
            gate, up = mixed.chunk(2, dim=-1)
            gated = torch.nn.functional.silu(gate)
            active = gated * up
            scaled = active if scale is None else active * scale.to(dtype).unsqueeze(-1)
            ctx.save_for_backward(x, fc1, fc2, scale, mixed, gated, active, scaled)
            return product(scaled, fc2.t())

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None]:
        x, fc1, fc2, scale, mixed, gated, active, scaled = ctx.saved_tensors
        x_type, weight_type = ctx.types
        grad = grad.to(x.dtype)
        d_fc2 = weight_gradient(grad, scaled)
        d_active = product(grad, fc2)
        d_scale = None
        if scale is not None:
            d_scale = (d_active * active).sum(-1).to(scale.dtype)
            d_active.mul_(scale.to(x.dtype).unsqueeze(-1))
        gate, up = mixed.chunk(2, dim=-1)
        d_mixed = torch.empty_like(mixed)
        d_gate, d_up = d_mixed.chunk(2, dim=-1)
        torch.mul(d_active, gated, out=d_up)
        torch.ops.aten.silu_backward.grad_input(d_active.mul_(up), gate, grad_input=d_gate)
        d_fc1 = weight_gradient(d_mixed, x)
        return product(d_mixed, fc1).to(x_type), d_fc1.to(weight_type), d_fc2.to(weight_type), d_scale, None


def token_losses(hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """What ``HeadLoss`` sums, token by token and without a gradient: [T] float32, 0 where the label is IGNORED."""
    exact = torch.promote_types(hidden.dtype, torch.float32)
    losses = torch.empty(len(hidden), dtype=exact, device=hidden.device)
    rows = max(1, CHUNK_ELEMENTS // weight.shape[0])
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        cast, matrix = hidden.to(dtype), weight.to(dtype)
        for at in range(0, len(hidden), rows):
            target = labels[at : at + rows, None]
            scores = product(cast[at : at + rows], matrix.t()).to(exact)
            loss, _ = _cross_entropy(scores, target.clamp(min=0))
            losses[at : at + rows] = loss.mul_(target != IGNORED).squeeze(1)
    return losses


def _cross_entropy(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss [n, 1] and probabilities [n, V] of scores [n, V] against targets [n, 1]."""
    margin = scores.amax(-1, keepdim=True) - scores.gather(1, target)
    probability = torch.softmax(scores, dim=-1)
    # The largest probability is 1 / sum(exp(score - max)), so its logarithm never underflows.
    return margin - probability.amax(-1, keepdim=True).log_(), probability


class HeadLoss(Function):
    """Summed cross entropy in float32 of ``hidden weight^T`` against labels; logits exist a chunk at a time.

    The gradient is made in the forward pass, while a chunk's probabilities are at hand, and scaled in the backward.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """hidden [T, h], weight [V, h], labels [T] with IGNORED where nothing counts -> scalar."""
        wanted = any(ctx.needs_input_grad[:2])
        exact = torch.promote_types(hidden.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            cast, matrix = hidden.to(dtype), weight.to(dtype)
            d_hidden = torch.empty_like(cast) if wanted else None
            d_weight = torch.zeros_like(weight) if wanted else None
            total = torch.zeros((), dtype=exact, device=hidden.device)
            rows = max(1, CHUNK_ELEMENTS // weight.shape[0])
            for at in range(0, len(hidden), rows):
                part, target = cast[at : at + rows], labels[at : at + rows, None]
                counted = target != IGNORED
                target = target.clamp(min=0)
                loss, probability = _cross_entropy(product(part, matrix.t()).to(exact), target)
                total += loss.mul_(counted).sum()
                if d_hidden is None or d_weight is None:
                    continue
                grad = probability.scatter_add_(1, target, -torch.ones_like(target, dtype=exact))
                grad = (grad if counted.all() else grad.mul_(counted)).to(dtype)
                d_hidden[at : at + rows] = product(grad, matrix)
                d_weight += weight_gradient(grad, part)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.dtype = hidden.dtype
        return total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden.to(ctx.dtype) * grad, d_weight * grad, None, None
