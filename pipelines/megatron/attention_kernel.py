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

BLOCK = 64
"""Query positions a block."""


class CausalAttention(Function):
    """``softmax(R q (R k)^T / sqrt(d) + causal) v`` by heads, between the qkv and output projections."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, qkv: Tensor, proj: Tensor, cos: Tensor, sin: Tensor, groups: int, dtype: torch.dtype
    ) -> Tensor:
        """x [s, b, h]; qkv [G (r + 2) d, h], by group its queries, key, value; cos, sin [s, d / 2] -> [s, b, h]."""
        s, b, h = x.shape
        d = 2 * cos.shape[-1]
        r = h // (groups * d)
        ctx.types = x.dtype, qkv.dtype
        with torch.autocast(x.device.type, enabled=False):
            flat, qkv, proj = x.reshape(s * b, h).to(dtype), qkv.to(dtype), proj.to(dtype)
            mixed = (flat @ qkv.t()).view(s, b * groups, r + 2, d).transpose(0, 1)
            # The scale 1 / sqrt(d) rides on the queries' rotation.
            tables = [(cos * a).to(dtype)[:, None] for a in (1 / math.sqrt(d), 1.0)]
            tables_sin = [(sin * a).to(dtype)[:, None] for a in (1 / math.sqrt(d), 1.0)]
            query, key = mixed.new_empty(b * groups, s, r, d), mixed.new_empty(b * groups, s, 1, d)
            _rotate(mixed[:, :, :r], tables[0], tables_sin[0], query)
            _rotate(mixed[:, :, r : r + 1], tables[1], tables_sin[1], key)
            query, key, value = query.view(-1, s * r, d), key.squeeze(2), mixed[:, :, r + 1].contiguous()
            context, probabilities = _attend(query, key, value, r)
            # [b G, s r, d] -> [s b, G r d]
            gathered = context.view(b, groups, s, r, d).permute(2, 0, 1, 3, 4).reshape(s * b, h)
            ctx.save_for_backward(flat, qkv, proj, query, key, value, gathered, *tables, *tables_sin, *probabilities)
            ctx.shape = s, b, groups, r, d
            return (gathered @ proj.t()).view(s, b, h)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, qkv, proj, query, key, value, gathered, cos_q, cos_k, sin_q, sin_k, *probabilities = ctx.saved_tensors
        (s, b, groups, r, d), (x_type, weight_type) = ctx.shape, ctx.types
        grad = grad.reshape(s * b, -1).to(flat.dtype)
        d_proj = grad.t() @ gathered
        d_context = (grad @ proj).view(s, b, groups, r, d).permute(1, 2, 0, 3, 4).reshape(b * groups, s * r, d)
        d_query, d_key, d_value = _attend_backward(d_context, query, key, value, probabilities, r)
        d_flat = flat.new_empty(s, b * groups, r + 2, d)
        d_mixed = d_flat.transpose(0, 1)
        # A rotation's transpose turns the other way.
        _rotate(d_query.view(-1, s, r, d), cos_q, -sin_q, d_mixed[:, :, :r])
        _rotate(d_key.view(-1, s, 1, d), cos_k, -sin_k, d_mixed[:, :, r : r + 1])
        d_mixed[:, :, r + 1] = d_value
        d_flat = d_flat.view(s * b, -1)
        d_x, d_qkv = (d_flat @ qkv).to(x_type).view(s, b, -1), (d_flat.t() @ flat).to(weight_type)
        return d_x, d_qkv, d_proj.to(weight_type), None, None, None, None


def _attend(query: Tensor, key: Tensor, value: Tensor, r: int) -> tuple[Tensor, list[Tensor]]:
    """query [B, s r, d] (scaled), key and value [B, s, d] -> context [B, s r, d], probabilities by block."""
    s = key.shape[1]
    context, probabilities = torch.empty_like(query), []
    for start in range(0, s, BLOCK):
        end = min(start + BLOCK, s)
        rows = slice(start * r, end * r)
        scores = torch.bmm(query[:, rows], key[:, :end].transpose(1, 2))
        # Only the block's own columns hold keys of the future.
        diagonal = scores.view(-1, end - start, r, end)[..., start:]
        diagonal += _future(end - start, scores)[:, None]
        probability = torch.softmax(scores, dim=-1)
        torch.bmm(probability, value[:, :end], out=context[:, rows])
        probabilities.append(probability)
    return context, probabilities


def _attend_backward(
    d_context: Tensor, query: Tensor, key: Tensor, value: Tensor, probabilities: list[Tensor], r: int
) -> tuple[Tensor, Tensor, Tensor]:
    s = key.shape[1]
    d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for start, probability in zip(range(0, s, BLOCK), probabilities, strict=True):
        end = min(start + BLOCK, s)
        rows = slice(start * r, end * r)
        d_value[:, :end] += torch.bmm(probability.transpose(1, 2), d_context[:, rows])
        d_probability = torch.bmm(d_context[:, rows], value[:, :end].transpose(1, 2))
        d_scores = torch._softmax_backward_data(d_probability, probability, -1, probability.dtype)
        torch.bmm(d_scores, key[:, :end], out=d_query[:, rows])
        d_key[:, :end] += torch.bmm(d_scores.transpose(1, 2), query[:, rows])
    return d_query, d_key, d_value


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """out = (x1 cos - x2 sin, x2 cos + x1 sin), halves of the last dimension; x, out [..., d], tables [s, 1, d / 2]."""
    first, second = x.chunk(2, dim=-1)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first)
    out_first.sub_(second * sin)
    torch.mul(second, cos, out=out_second)
    out_second.add_(first * sin)


_MASKS: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def _future(size: int, like: Tensor) -> Tensor:
    """[size, size] with -inf above the diagonal, 0 elsewhere; cached."""
    key = size, like.dtype, like.device
    if key not in _MASKS:
        _MASKS[key] = torch.full((size, size), -math.inf, dtype=like.dtype, device=like.device).triu_(1)
    return _MASKS[key]
