"""Floating-point operations a token, counted from the shape alone. Imports no torch.

Convention: a product of [m, k] and [k, n] matrices is 2 m k n operations; everything else (norms, activations,
softmax, rotary) counts 0, and so does the embedding lookup. Attention's two products count as full s x s matrices,
as torch's FlopCounter counts them, though causal kernels may skip half. Of experts, only the k that a token visits
count. Training is three times the forward pass: the backward pass has two products for each of the forward's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.megatron.spec import ExpertSpec, ModelSpec

BACKWARD_FACTOR = 3


def forward_flops_per_token(spec: ModelSpec, vocab_size: int, experts: ExpertSpec | None = None) -> int:
    """Operations of a forward pass over sequences of ``spec.seq_length``, a token."""
    h, s = spec.hidden_size, spec.seq_length
    head_size = h // spec.num_attention_heads
    qkv = h * (spec.num_attention_heads + 2 * spec.num_query_groups) * head_size
    projection = h * h
    scores_and_values = 2 * s * h
    if experts is None:
        feed_forward = 3 * h * spec.ffn_hidden_size
    else:
        router = h * experts.num_moe_experts
        feed_forward = experts.moe_router_topk * 3 * h * experts.moe_ffn_hidden_size + router
    layer = qkv + projection + scores_and_values + feed_forward
    return 2 * (spec.num_layers * layer + h * vocab_size)


def training_flops_per_token(spec: ModelSpec, vocab_size: int, experts: ExpertSpec | None = None) -> int:
    """Operations of forward and backward, a token."""
    return BACKWARD_FACTOR * forward_flops_per_token(spec, vocab_size, experts)


def count_parameters(spec: ModelSpec, vocab_size: int, experts: ExpertSpec | None = None) -> int:
    """Parameters of the model; with experts, of megatron's own top-k router (methods may add some)."""
    return _parameters(spec, vocab_size, experts, experts.num_moe_experts if experts else 0)


def count_active_parameters(spec: ModelSpec, vocab_size: int, experts: ExpertSpec | None = None) -> int:
    """Parameters a token meets: all of them but the experts it is not routed to."""
    return _parameters(spec, vocab_size, experts, experts.moe_router_topk if experts else 0)


def _parameters(spec: ModelSpec, vocab_size: int, experts: ExpertSpec | None, experts_counted: int) -> int:
    h = spec.hidden_size
    head_size = h // spec.num_attention_heads
    attention = h * (spec.num_attention_heads + 2 * spec.num_query_groups) * head_size + h * h
    if experts is None:
        feed_forward = 3 * h * spec.ffn_hidden_size
    else:
        feed_forward = experts_counted * 3 * h * experts.moe_ffn_hidden_size + h * experts.num_moe_experts
    embeddings = h * vocab_size * (2 if spec.untie_embeddings_and_output_weights else 1)
    return embeddings + spec.num_layers * (attention + feed_forward + 2 * h) + h


def parameter_shapes(spec: ModelSpec, vocab_size: int, experts: ExpertSpec | None = None) -> dict[str, tuple[int, ...]]:
    """Global name -> shape of every parameter, in the model's order; with experts, of megatron's own top-k router."""
    h = spec.hidden_size
    head_size = h // spec.num_attention_heads

    def feed_forward(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
        return {f"{prefix}linear_fc1.weight": (2 * width, h), f"{prefix}linear_fc2.weight": (h, width)}

    shapes: dict[str, tuple[int, ...]] = {"embedding.word_embeddings.weight": (vocab_size, h)}
    for number in range(spec.num_layers):
        layer: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (h,)}
        if experts is None:
            layer |= feed_forward("mlp.", spec.ffn_hidden_size)
        else:
            for expert in range(experts.num_moe_experts):
                layer |= feed_forward(f"mlp.experts.local_experts.{expert}.", experts.moe_ffn_hidden_size)
            layer["mlp.router.weight"] = (experts.num_moe_experts, h)
        layer |= {
            "pre_mlp_layernorm.weight": (h,),
            "self_attention.linear_proj.weight": (h, h),
            "self_attention.linear_qkv.weight": (
                (spec.num_attention_heads + 2 * spec.num_query_groups) * head_size,
                h,
            ),
        }
        shapes |= {f"decoder.layers.{number}.{suffix}": shape for suffix, shape in layer.items()}
    shapes["decoder.final_layernorm.weight"] = (h,)
    if spec.untie_embeddings_and_output_weights:
        shapes["output_layer.weight"] = (vocab_size, h)
    return shapes
