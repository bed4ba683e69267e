"""A LLaMA-style GPTModel from specs: RMSNorm, SwiGLU, rotary embeddings, grouped queries, no biases; dense or MoE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.megatron import backend

# isort: split
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from pipelines.megatron.initialisation import initialise
from pipelines.megatron.kernels import HeadLoss, compute_dtype, token_losses
from pipelines.megatron.layers import Attention, Experts, Mlp, RmsNorm, add_residual
from pipelines.megatron.router import BaseRouter

if TYPE_CHECKING:
    from pipelines.megatron.spec import ExpertSpec, ModelSpec

RouterBuilder = Callable[..., BaseRouter]
"""Called as ``router_builder(config=..., pg_collection=...)`` once a layer, as megatron's MoESubmodules.router is."""


class Gpt(GPTModel):
    """GPTModel whose last stage gives logits, or the loss in float32."""

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        each_token: bool = False,
    ) -> Tensor:
        """One forward pass of this pipeline stage.

        Args:
            input_ids: [b, s] token ids.
            labels: [b, s] the next token at each position.
            each_token: with labels, the loss token by token and without a gradient, in place of its sum.

        Returns:
            hidden states [s, b, h] before the last stage; there, with labels, the summed negative log-likelihood in
            nats (a float32 scalar; with ``each_token`` [b, s], 0 where ignored), else logits [b, s, V].
        """
        hidden = self.embedding(input_ids=input_ids, position_ids=position_ids) if self.pre_process else None
        hidden = self.decoder(hidden_states=hidden, attention_mask=None)
        if not self.post_process:
            return hidden
        weight = self.output_weight()
        if labels is None:
            return functional.linear(hidden.transpose(0, 1), weight)
        flat = hidden.flatten(0, 1), weight, labels.t().flatten(), compute_dtype(hidden)
        if each_token:
            return token_losses(*flat).view(labels.shape[1], labels.shape[0]).t()
        loss: Tensor = HeadLoss.apply(*flat)
        return loss

    def output_weight(self) -> Tensor:
        """The head's weight [V, h]: the embedding's where they are tied."""
        tied = self.share_embeddings_and_output_weights
        return self.shared_embedding_or_output_weight() if tied else self.output_layer.weight

    def setup_embeddings_and_output_layer(self) -> None:
        """Mark tied weights for the gradient exchange between the first and the last stage.

        Megatron also copies the weight over the network here; ours is filled by name on each stage instead.
        """
        if self.pre_process:
            self.embedding.word_embeddings.weight.is_embedding_or_output_parameter = True
        if self.post_process and self.output_layer.weight is not None:
            self.output_layer.weight.is_embedding_or_output_parameter = True
        if self.share_embeddings_and_output_weights and self.config.pipeline_model_parallel_size > 1:
            weight = self.shared_embedding_or_output_weight()
            if weight is not None:
                weight.shared_embedding = True
                # Counted once in the gradient norm: on the stage that owns the embedding.
                weight.shared = not self.pre_process


def build_model(
    spec: ModelSpec,
    vocab_size: int,
    experts: ExpertSpec | None = None,
    *,
    seed: int = 0,
    router_builder: RouterBuilder | None = None,
    prepare: Callable[[Gpt], None] | None = None,
    initial: Mapping[str, Tensor] | None = None,
) -> Gpt:
    """The part of a model that lives on this rank, its weights filled.

    Args:
        vocab_size: rows of the embedding (no padding).
        experts: make every layer's feed-forward a mixture of experts.
        seed: seeds every parameter together with its global name, so that the layout does not matter.
        router_builder: builds each layer's router; default: megatron's top-k router.
        prepare: called with the built model before its weights are filled, to add modules that layers share.
        initial: global name -> full tensor, in place of random weights; every parameter must be there.

    Returns:
        the model on ``backend.device()``, in training mode. Process groups must be initialised.

    Raises:
        RetraceError: ``initial`` lacks a parameter or has one of another shape.
    """
    config = transformer_config(spec, experts)
    model = Gpt(
        config=config,
        transformer_layer_spec=layer_spec(experts, router_builder),
        vocab_size=vocab_size,
        max_sequence_length=spec.seq_length,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=not spec.untie_embeddings_and_output_weights,
        # Rotary embeddings are applied inside our attention module.
        position_embedding_type="none",
    )
    if prepare is not None:
        prepare(model)
    initialise(model, seed, spec.init_method_std, initial)
    return model.to(backend.device())


def transformer_config(spec: ModelSpec, experts: ExpertSpec | None = None) -> TransformerConfig:
    """megatron's configuration for a spec under the process groups that run."""
    cuda = torch.cuda.is_available()
    moe: dict[str, Any] = {}
    if experts is not None:
        moe = {
            "num_moe_experts": experts.num_moe_experts,
            "moe_router_topk": experts.moe_router_topk,
            "moe_ffn_hidden_size": experts.moe_ffn_hidden_size,
            "moe_aux_loss_coeff": experts.moe_aux_loss_coeff,
            "moe_router_load_balancing_type": "aux_loss" if experts.moe_aux_loss_coeff else "none",
            "moe_token_dispatcher_type": "alltoall",
            "moe_router_dtype": "fp32",
            # With k = 1 a softmax over the chosen logits alone is always 1: the router would get no gradient.
            "moe_router_pre_softmax": experts.moe_router_topk == 1,
        }
    config = TransformerConfig(
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        ffn_hidden_size=spec.ffn_hidden_size,
        num_attention_heads=spec.num_attention_heads,
        num_query_groups=spec.num_query_groups,
        normalization="RMSNorm",
        layernorm_epsilon=spec.layernorm_epsilon,
        gated_linear_unit=True,
        activation_func=functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=spec.init_method_std,
        perform_initialization=False,
        use_cpu_initialization=not cuda,
        pipeline_model_parallel_size=parallel_state.get_pipeline_model_parallel_world_size(),
        expert_model_parallel_size=parallel_state.get_expert_model_parallel_world_size(),
        pipeline_dtype=torch.float32,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_dropout_fusion=False,
        bias_activation_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=False,
        cross_entropy_loss_fusion=False,
        cuda_graph_scope=[],
        **moe,
    )
    config.rotary_base = spec.rotary_base
    return config


def layer_spec(experts: ExpertSpec | None = None, router_builder: RouterBuilder | None = None) -> ModuleSpec:
    """megatron's local layer spec with our modules in its slots."""
    spec = get_gpt_layer_local_spec(num_experts=experts and experts.num_moe_experts, normalization="RMSNorm")
    slots = spec.submodules
    slots.input_layernorm = slots.pre_mlp_layernorm = RmsNorm
    slots.self_attention.module = Attention
    slots.self_attention.submodules.core_attention = IdentityOp
    slots.self_attn_bda = slots.mlp_bda = add_residual
    if experts is None:
        slots.mlp = Mlp
    else:
        slots.mlp.submodules.experts.module = Experts
        slots.mlp.submodules.router = router_builder or BaseRouter
    return spec
