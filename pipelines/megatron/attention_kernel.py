"""Causal self-attention with rotary embeddings from normed hidden states to output projection, as one operation.

For the short sequences of CPU runs: probabilities are kept for the backward pass (b H s^2 numbers a layer), and
queries go in blocks that multiply only the keys up to their end, which saves up to half of the work. Longer
sequences and GPUs use torch's scaled_dot_product_attention instead (see layers.Attention).

Shapes: s sequence, b batch, G groups (key/value heads), r queries a group, d head size, h = G r d hidden.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pipelines.megatron.products import product, weight_gradient

BLOCK = 64
"""Query positions a block."""


class CausalAttention(Function):
    """``softmax(R q (R k)^T / sqrt(d) + causal) v`` by heads, between the qkv and output projections.

    Inside, the two halves of a head's units are interleaved (by reordering the rows of qkv and the columns of proj),
    so that a rotation is one complex product; scores and context do not see the order.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, qkv: Tensor, proj: Tensor, cos: Tensor, sin: Tensor, groups: int, dtype: torch.dtype
    ) -> Tensor:
        """x [s, b, h]; qkv [G (r + 2) d, h], by group its queries, key, value; cos, sin [s, d / 2] -> [s, b, h]."""
        s, b, h = x.shape
        d = 2 * cos.shape[-1]
        r = h // (groups * d)
        ctx.types, ctx.shape = (x.dtype, qkv.dtype), (s, b, groups, r, d)
        exact = torch.promote_types(dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            flat = x.reshape(s * b, h).to(dtype)
            # [G (r + 2), 2, d / 2, h] -> pairs; [h, G r, 2, d / 2] -> pairs
            qkv = qkv.view(-1, 2, d // 2, h).transpose(1, 2).to(dtype).reshape(-1, h)
            proj = proj.view(h, -1, 2, d // 2).transpose(2, 3).to(dtype).reshape(h, h)
            mixed = product(flat, qkv.t()).view(s, b * groups, r + 2, d)
            turn = _turns(cos, sin, r, exact)
            turned = torch.view_as_real(_complex(mixed[:, :, : r + 1].to(exact)) * turn).flatten(3)
            query = turned[:, :, :r].transpose(0, 1).to(dtype).reshape(-1, s * r, d)
            key = turned[:, :, r].transpose(0, 1).to(dtype).contiguous()
            value = mixed[:, :, r + 1].transpose(0, 1).contiguous()
            gathered, probabilities = _attend(query, key, value, ctx.shape)
            ctx.save_for_backward(flat, qkv, proj, query, key, value, gathered, turn, *probabilities)
            return product(gathered, proj.t()).view(s, b, h)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, qkv, proj, query, key, value, gathered, turn, *probabilities = ctx.saved_tensors
        (s, b, groups, r, d), (x_type, weight_type) = ctx.shape, ctx.types
        h = groups * r * d
        grad = grad.reshape(s * b, h).to(flat.dtype)
        d_proj = weight_gradient(grad, gathered).reshape(h, -1, d // 2, 2).transpose(2, 3).to(weight_type).reshape(h, h)
        d_turned = turn.real.new_empty(s, b * groups, r + 1, d)
        d_value = _attend_backward(
            product(grad, proj).view(s, b, groups, r, d), query, key, value, probabilities, d_turned
        )
        d_mixed = flat.new_empty(s, b * groups, r + 2, d)
        # The transpose of a rotation turns the other way.
        d_mixed[:, :, : r + 1] = torch.view_as_real(_complex(d_turned) * turn.conj()).flatten(3)
        d_mixed[:, :, r + 1] = d_value.transpose(0, 1)
        d_flat = d_mixed.view(s * b, -1)
        d_qkv = weight_gradient(d_flat, flat).reshape(-1, d // 2, 2, h).transpose(1, 2).to(weight_type).reshape(-1, h)
        return product(d_flat, qkv).to(x_type).view(s, b, h), d_qkv, d_proj, None, None, None, None


def _attend(query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    """query [B, s r, d] (scaled), key and value [B, s, d], B = b G -> context [s b, h], probabilities by block."""
    s, b, groups, r, d = shape
    gathered, probabilities = query.new_empty(s, b, groups, r, d), []
    for start in range(0, s, BLOCK):
        end = min(start + BLOCK, s)
        scores = torch.bmm(query[:, start * r : end * r], key[:, :end].transpose(1, 2))
        # Only the block's own columns hold keys of the future.
        diagonal = scores.view(-1, end - start, r, end)[..., start:]
        diagonal += _future(end - start, scores)[:, None]
        probability = torch.softmax(scores, dim=-1)
        context = torch.bmm(probability, value[:, :end])
        gathered[start:end] = context.view(b, groups, end - start, r, d).permute(2, 0, 1, 3, 4)
        probabilities.append(probability)
    return gathered.view(s * b, -1), probabilities


def _attend_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, probabilities: list[Tensor], d_turned: Tensor
) -> Tensor:
    """grad [s, b, G, r, d]; fills d_turned [s, B, r + 1, d] with the queries' and the key's, returns the values'."""
    s, b, groups, r, d = grad.shape
    d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
    for start, probability in zip(range(0, s, BLOCK), probabilities, strict=True):
        end = min(start + BLOCK, s)
        rows = slice(start * r, end * r)
        d_context = grad[start:end].permute(1, 2, 0, 3, 4).reshape(b * groups, -1, d)
        d_value[:, :end] += torch.bmm(probability.transpose(1, 2), d_context)
        d_probability = torch.bmm(d_context, value[:, :end].transpose(1, 2))
        d_scores = torch._softmax_backward_data(d_probability, probability, -1, probability.dtype)
        d_query = torch.bmm(d_scores, key[:, :end])
        d_turned[start:end, :, :r] = d_query.view(-1, end - start, r, d).transpose(0, 1)
        d_key[:, :end] += torch.bmm(d_scores.transpose(1, 2), query[:, rows])
    d_turned[:, :, r] = d_key.transpose(0, 1)
    return d_value


def _complex(pairs: Tensor) -> Tensor:
    """[..., d] -> [..., d / 2] complex, units paired with their neighbours."""
    return torch.view_as_complex(pairs.unflatten(-1, (-1, 2)))


def _turns(cos: Tensor, sin: Tensor, r: int, dtype: torch.dtype) -> Tensor:
    """[s, 1, r + 1, d / 2] complex: rotations of the r queries, which carry the scale 1 / sqrt(d), and of the key."""
    turn = torch.complex(cos.to(dtype), sin.to(dtype))[:, None, None]
    return torch.cat([turn.expand(-1, -1, r, -1) / math.sqrt(2 * cos.shape[-1]), turn], dim=2)


_MASKS: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def _future(size: int, like: Tensor) -> Tensor:
    """[size, size] with -inf above the diagonal, 0 elsewhere; cached."""
    key = size, like.dtype, like.device
    if key not in _MASKS:
        _MASKS[key] = torch.full((size, size), -math.inf, dtype=like.dtype, device=like.device).triu_(1)
    return _MASKS[key]
