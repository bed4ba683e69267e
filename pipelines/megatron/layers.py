"""Modules put into megatron's layer spec in place of its own: fewer, cheaper kernels, the same parameters.

Shapes: s sequence, b batch, h hidden, H heads, G query groups (key/value heads), d head size, f feed-forward width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import pipelines.megatron.backend  # noqa: F401  (before megatron.core, which it adapts)

# isort: split
from megatron.core import parallel_state
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.transformer_config import TransformerConfig

from pipelines.megatron.attention_kernel import CausalAttention
from pipelines.megatron.kernels import RmsNormalize, SwigluFeedForward, compute_dtype

ROUND = 64
"""Tokens of an expert are filled up to a multiple of this on the CPU."""

SHORT = 512
"""Sequences up to this length take our attention kernel on the CPU; longer ones torch's, which keeps no scores."""


class RmsNorm(torch.nn.Module):
    """Root-mean-square normalisation, ``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension, in float32."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., h] -> [..., h]."""
        normed: Tensor = RmsNormalize.apply(hidden, self.weight, self.eps)
        return normed


class Attention(SelfAttention):
    """Causal self-attention with rotary embeddings (no mask argument, no cache)."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        """[s, b, h] -> ([s, b, h], no bias)."""
        s, b, _h = hidden_states.shape
        groups, d = self.num_query_groups_per_partition, self.hidden_size_per_attention_head
        cos, sin = rotary_tables(s, d, self.config.rotary_base, hidden_states.device)
        if s <= SHORT and hidden_states.device.type == "cpu":
            qkv, proj = self.linear_qkv.weight, self.linear_proj.weight
            dtype = compute_dtype(hidden_states)
            return CausalAttention.apply(hidden_states, qkv, proj, cos, sin, groups, dtype), None
        per_group = self.num_attention_heads_per_partition // groups
        # [s, b, G, queries of the group, its key, its value, d]
        mixed = functional.linear(hidden_states, self.linear_qkv.weight).view(s, b, groups, per_group + 2, d)
        query, key, value = mixed.split([per_group, 1, 1], dim=3)
        query = query.reshape(s, b, groups * per_group, d).permute(1, 2, 0, 3)
        key, value = (each.reshape(s, b, groups, d).permute(1, 2, 0, 3) for each in (key, value))
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        context = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=per_group > 1)
        context = context.permute(2, 0, 1, 3).reshape(s, b, groups * per_group * d)
        return functional.linear(context, self.linear_proj.weight), None


class Mlp(MLP):
    """SwiGLU feed-forward layer; fc1 holds the gate's rows, then the up projection's."""

    def __init__(self, config: TransformerConfig, **_: Any) -> None:
        submodules = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
        group = parallel_state.get_tensor_model_parallel_group()
        super().__init__(config, submodules, ffn_hidden_size=config.ffn_hidden_size, tp_group=group)

    def forward(self, hidden_states: Tensor, per_token_scale: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        """[..., h] -> ([..., h], no bias)."""
        return feed_forward(hidden_states, self.linear_fc1.weight, self.linear_fc2.weight), None


class Experts(SequentialMLP):
    """The experts of this rank, one after another, each weighted by its tokens' router probabilities."""

    def forward(self, hidden: Tensor, tokens_per_expert: Tensor, probs: Tensor) -> tuple[Tensor, None]:
        """Tokens grouped by expert [T, h], [experts here] counts, probs [T] -> ([T, h], no bias)."""
        counts = tokens_per_expert.tolist()
        pieces = zip(self.local_experts, hidden.split(counts), probs.split(counts), strict=True)
        outputs = [
            _in_round_numbers(tokens, scale, expert.linear_fc1.weight, expert.linear_fc2.weight)
            for expert, tokens, scale in pieces
        ]
        return torch.cat(outputs), None


def _in_round_numbers(tokens: Tensor, scale: Tensor, fc1: Tensor, fc2: Tensor) -> Tensor:
    """``feed_forward`` with rows of zeros up to a multiple of ``ROUND``.

    oneDNN compiles a product for every new shape, and routers send a new number of tokens each time.
    """
    count = len(tokens)
    missing = -count % ROUND if count >= 2 * ROUND and tokens.device.type == "cpu" else 0
    if not missing:
        return feed_forward(tokens, fc1, fc2, scale)
    tokens, scale = functional.pad(tokens, (0, 0, 0, missing)), functional.pad(scale, (0, missing))
    return feed_forward(tokens, fc1, fc2, scale)[:count]


def feed_forward(hidden: Tensor, fc1: Tensor, fc2: Tensor, scale: Tensor | None = None) -> Tensor:
    """SwiGLU: ``(silu(x gate^T) * (x up^T)) fc2^T``, activations times ``scale`` [T] if given. [..., h] -> [..., h]."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    out: Tensor = SwigluFeedForward.apply(flat, fc1, fc2, scale, compute_dtype(hidden))
    return out.view(hidden.shape)


def add_residual(training: bool, fused: bool) -> Any:
    """The residual addition, for megatron's bias-dropout-add slot (there is no bias and no dropout)."""
    return _add


def _add(output: tuple[Tensor, None], residual: Tensor, probability: float) -> Tensor:
    return residual + output[0]


_TABLES: dict[tuple[int, int, float, torch.device], tuple[Tensor, Tensor]] = {}


def rotary_tables(length: int, d: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [length, d / 2] of RoFormer's angles (LLaMA's order: halves, not pairs). Float32, cached."""
    key = (length, d, float(base), device)
    if key not in _TABLES:
        exponents = torch.arange(0, d, 2, dtype=torch.float32, device=device) / d
        angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), base**-exponents)
        _TABLES[key] = angles.cos(), angles.sin()
    return _TABLES[key]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [..., s, d] by tables [s, d / 2]: (x1 cos - x2 sin, x2 cos + x1 sin), in x's dtype."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
