"""Parameters and bytes of a model trained in factors, counted from its shape alone. Imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipelines.megatron.flops import count_parameters

if TYPE_CHECKING:
    from pipelines.megatron.spec import ModelSpec

INDEX_BYTES = 8
"""int64, as the released code stores them."""


def linear_shapes(spec: ModelSpec) -> list[tuple[int, int]]:
    """(outputs, inputs) of every linear map of the decoder: query, key, value, output, gate, up, down of each layer."""
    h, f = spec.hidden_size, spec.ffn_hidden_size
    kv = spec.num_query_groups * (h // spec.num_attention_heads)
    return [(h, h), (kv, h), (kv, h), (h, h), (f, h), (f, h), (h, f)] * spec.num_layers


def factored_parameters(spec: ModelSpec, vocab_size: int, rank: int, density: float = 0.0) -> int:
    """Trained numbers: ``rank (o + i)`` and the sparse entries of each linear map, all of everything else."""
    linear = linear_shapes(spec)
    others = count_parameters(spec, vocab_size) - sum(o * i for o, i in linear)
    return others + sum(rank * (o + i) for o, i in linear) + sparse_entries(spec, density)


def sparse_entries(spec: ModelSpec, density: float) -> int:
    """``floor(density o i)`` of each linear map, all together."""
    return sum(math.floor(density * o * i) for o, i in linear_shapes(spec))


def composing_flops(spec: ModelSpec, rank: int) -> int:
    """Operations of all products ``B A``, ``2 o r i`` each. Sparse additions count 0."""
    return sum(2 * rank * o * i for o, i in linear_shapes(spec))


def state_bytes(num_parameters: int, num_indices: int) -> int:
    """What a float32 run allocates: weight, gradient and two moments of each parameter, and the indices."""
    return 4 * 4 * num_parameters + INDEX_BYTES * num_indices


def published_bytes(num_parameters: int, num_indices: int) -> int:
    """What arXiv 2406.02214 counts: weight and two moments in bfloat16, and indices; neither gradient nor activation.

    At its 1B shape this is 8.0 GB in full rank, as its figure 1 shows.
    """
    return 3 * 2 * num_parameters + INDEX_BYTES * num_indices
