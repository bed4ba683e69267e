"""The same weights under Hugging Face's names: dense as LlamaForCausalLM, top-k experts as MixtralForCausalLM.

Both sides share the rotary convention (halves, not pairs) and the order gate, up of the SwiGLU; what differs is
the query, key and value matrix, which Megatron keeps as one, group by group: q_1 .. q_r, k, v for each query group.
Mixtral is written under its published per-expert names, which every version of transformers reads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipelines.megatron.spec import ExpertSpec, ModelSpec

    Array = np.ndarray[Any, np.dtype[np.float32]]

PLAIN = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "decoder.final_layernorm.weight": "model.norm.weight",
    "output_layer.weight": "lm_head.weight",
}
PLAIN_IN_LAYER = {
    "input_layernorm.weight": "input_layernorm.weight",
    "self_attention.linear_proj.weight": "self_attn.o_proj.weight",
    "pre_mlp_layernorm.weight": "post_attention_layernorm.weight",
    "mlp.linear_fc2.weight": "mlp.down_proj.weight",
    "mlp.router.weight": "block_sparse_moe.gate.weight",
}
SPLIT_IN_LAYER = ("self_attention.linear_qkv.weight", "mlp.linear_fc1.weight")
LAYER = re.compile(r"^decoder\.layers\.(\d+)\.(.+)$")
EXPERT = re.compile(r"^mlp\.experts\.local_experts\.(\d+)\.(linear_fc[12])\.weight$")


def split_qkv(qkv: Array, model: ModelSpec) -> tuple[Array, Array, Array]:
    """Megatron's fused [(heads + 2 groups) * d, hidden] as q [heads * d, hidden], k and v [groups * d, hidden]."""
    groups, hidden = model.num_query_groups, model.hidden_size
    heads_a_group = model.num_attention_heads // groups
    by_group = qkv.reshape(groups, heads_a_group + 2, hidden // model.num_attention_heads, hidden)
    q, k, v = by_group[:, :heads_a_group], by_group[:, heads_a_group], by_group[:, heads_a_group + 1]
    return q.reshape(-1, hidden), k.reshape(-1, hidden), v.reshape(-1, hidden)


def join_qkv(q: Array, k: Array, v: Array, model: ModelSpec) -> Array:
    """Undo :func:`split_qkv`."""
    groups, hidden = model.num_query_groups, model.hidden_size
    head = hidden // model.num_attention_heads
    parts = [each.reshape(groups, -1, head, hidden) for each in (q, k, v)]
    return np.concatenate(parts, axis=1).reshape(-1, hidden)


def check_exportable(names: Iterable[str]) -> None:
    """Refuse parameters that neither Llama nor Mixtral has, before anything is written.

    Raises:
        RetraceError: names the first such parameter.
    """
    for name in names:
        match = LAYER.match(name)
        inside = match is not None and (
            match[2] in PLAIN_IN_LAYER or match[2] in SPLIT_IN_LAYER or EXPERT.match(match[2]) is not None
        )
        if name not in PLAIN and not inside:
            raise RetraceError(
                f"parameter {name} has no place in a Hugging Face Llama or Mixtral: such a model cannot be exported"
            )


def to_huggingface(tensors: Mapping[str, Array], model: ModelSpec) -> Iterator[tuple[str, Array]]:
    """(Hugging Face name, array) of every tensor of a checkpoint that :func:`check_exportable` lets pass."""
    for name in tensors:
        if match := LAYER.match(name):
            yield from _layer_to_huggingface(f"model.layers.{match[1]}.", match[2], tensors[name], model)
        else:
            yield PLAIN[name], tensors[name]


def _layer_to_huggingface(prefix: str, name: str, array: Array, model: ModelSpec) -> Iterator[tuple[str, Array]]:
    if name in PLAIN_IN_LAYER:
        yield prefix + PLAIN_IN_LAYER[name], array
    elif name == "self_attention.linear_qkv.weight":
        for letter, part in zip("qkv", split_qkv(array, model), strict=True):
            yield f"{prefix}self_attn.{letter}_proj.weight", part
    elif name == "mlp.linear_fc1.weight":
        gate, up = np.split(array, 2)
        yield f"{prefix}mlp.gate_proj.weight", gate
        yield f"{prefix}mlp.up_proj.weight", up
    elif match := EXPERT.match(name):
        expert = f"{prefix}block_sparse_moe.experts.{match[1]}."
        if match[2] == "linear_fc2":
            yield f"{expert}w2.weight", array
        else:
            gate, up = np.split(array, 2)
            yield f"{expert}w1.weight", gate
            yield f"{expert}w3.weight", up


def from_huggingface(
    tensors: Mapping[str, Array], model: ModelSpec, experts: ExpertSpec | None
) -> Iterator[tuple[str, Array]]:
    """(global name, array) of every tensor of a Llama or Mixtral; the inverse of :func:`to_huggingface`."""
    yield "embedding.word_embeddings.weight", tensors["model.embed_tokens.weight"]
    for layer in range(model.num_layers):
        ours, theirs = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        for name, their_name in PLAIN_IN_LAYER.items():
            if theirs + their_name in tensors:
                yield ours + name, tensors[theirs + their_name]
        q, k, v = (tensors[f"{theirs}self_attn.{letter}_proj.weight"] for letter in "qkv")
        yield f"{ours}self_attention.linear_qkv.weight", join_qkv(q, k, v, model)
        if experts is None:
            gate, up = tensors[f"{theirs}mlp.gate_proj.weight"], tensors[f"{theirs}mlp.up_proj.weight"]
            yield f"{ours}mlp.linear_fc1.weight", np.concatenate([gate, up])
            continue
        for expert in range(experts.num_moe_experts):
            ours_expert = f"{ours}mlp.experts.local_experts.{expert}."
            w1, w2, w3 = (
                tensors[f"{theirs}block_sparse_moe.experts.{expert}.w{number}.weight"] for number in (1, 2, 3)
            )
            yield f"{ours_expert}linear_fc1.weight", np.concatenate([w1, w3])
            yield f"{ours_expert}linear_fc2.weight", w2
    yield "decoder.final_layernorm.weight", tensors["model.norm.weight"]
    if model.untie_embeddings_and_output_weights:
        yield "output_layer.weight", tensors["lm_head.weight"]


def huggingface_config(
    model: ModelSpec, experts: ExpertSpec | None, vocab_size: int, eos_token_id: int
) -> dict[str, Any]:
    """The config.json of the exported model. Documents end in one token, which is also the start and the padding."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.hidden_size // model.num_attention_heads,
        "hidden_act": "silu",
        "max_position_embeddings": model.seq_length,
        "initializer_range": model.init_method_std,
        "rms_norm_eps": model.layernorm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(model.rotary_base)},
        # Where transformers before 5 looks for it.
        "rope_theta": float(model.rotary_base),
        "attention_dropout": 0.0,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "bos_token_id": eos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": eos_token_id,
        "use_cache": True,
        "dtype": "float32",
    }
    if experts is None:
        return {**config, "attention_bias": False, "mlp_bias": False}
    return {
        **config,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "intermediate_size": experts.moe_ffn_hidden_size,
        "num_local_experts": experts.num_moe_experts,
        "num_experts_per_tok": experts.moe_router_topk,
        "router_aux_loss_coef": experts.moe_aux_loss_coeff,
        "router_jitter_noise": 0.0,
        "sliding_window": None,
    }


def model_spec_of(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """ModelSpec and ExpertSpec values of a Llama or Mixtral config.json.

    Raises:
        RetraceError: another architecture, or a feature that our models lack.
    """
    kind = config.get("model_type")
    if kind not in ("llama", "mixtral"):
        raise RetraceError(f"config.json: model_type {kind!r} cannot be imported; give a llama or mixtral model")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", "default")
    absent = {
        "attention_bias": config.get("attention_bias"),
        "mlp_bias": config.get("mlp_bias"),
        "sliding_window": config.get("sliding_window"),
        "rope_type": None if rope_type == "default" else rope_type,
    }
    if present := [f"{name} = {value!r}" for name, value in absent.items() if value]:
        raise RetraceError(f"config.json: {', '.join(present)} is not supported; choose a model without it")
    heads = config["num_attention_heads"]
    if config.get("head_dim") not in (None, config["hidden_size"] // heads):
        raise RetraceError("config.json: head_dim must be hidden_size / num_attention_heads")
    model = {
        "num_layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "ffn_hidden_size": config["intermediate_size"],
        "num_attention_heads": heads,
        "num_query_groups": config.get("num_key_value_heads") or heads,
        "seq_length": config["max_position_embeddings"],
        "rotary_base": int(rope.get("rope_theta") or config.get("rope_theta") or 10000),
        "layernorm_epsilon": config["rms_norm_eps"],
        "init_method_std": config.get("initializer_range", 0.02),
        "untie_embeddings_and_output_weights": not config.get("tie_word_embeddings", False),
    }
    if kind == "llama":
        return model, None
    return model, {
        "num_moe_experts": config["num_local_experts"],
        "moe_router_topk": config["num_experts_per_tok"],
        "moe_ffn_hidden_size": config["intermediate_size"],
        "moe_aux_loss_coeff": config.get("router_aux_loss_coef", 0.0),
    }
