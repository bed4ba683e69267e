"""The same weights under Hugging Face's names: dense as LlamaForCausalLM, top-k experts as MixtralForCausalLM.

Both sides share the rotary convention (halves, not pairs) and the order gate, up of the SwiGLU; what differs is
the query, key and value matrix, which Megatron keeps as one, group by group: q_1 .. q_r, k, v for each query group.
Mixtral is written under its published per-expert names, which every version of transformers reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.megatron.flops import parameter_shapes
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
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
    return concatenated(parts, axis=1).reshape(-1, hidden)


def concatenated(parts: Sequence[Array], axis: int = 0) -> Array:
    """numpy's ``concatenate``, for torch's tensors too."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis=axis)
    import torch

    return torch.cat(list(parts), dim=axis)  # type: ignore[return-value]


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


def to_huggingface(
    tensors: Mapping[str, Array] | Iterable[tuple[str, Array]], model: ModelSpec
) -> Iterator[tuple[str, Array]]:
    """(Hugging Face name, array) of every tensor of a checkpoint that :func:`check_exportable` lets pass."""
    for name, array in ((name, tensors[name]) for name in tensors) if isinstance(tensors, Mapping) else tensors:
        names = huggingface_names(name)
        parts: tuple[Array, ...]
        if name.endswith("linear_qkv.weight"):
            parts = split_qkv(array, model)
        else:
            rows = len(array) // len(names)
            parts = tuple(array[i * rows : (i + 1) * rows] for i in range(len(names)))
        yield from zip(names, parts, strict=True)


def from_huggingface(
    tensors: Mapping[str, Array], model: ModelSpec, experts: ExpertSpec | None
) -> Iterator[tuple[str, Array]]:
    """(global name, array) of every tensor of a Llama or Mixtral; the inverse of :func:`to_huggingface`."""
    for name in parameter_shapes(model, 0, experts):
        yield name, global_tensor(name, tensors, model)


def huggingface_names(name: str) -> list[str]:
    """Hugging Face's names of what one of our parameters holds, first things first."""
    match = LAYER.match(name)
    if match is None:
        return [PLAIN[name]]
    prefix, suffix = f"model.layers.{match[1]}.", match[2]
    if suffix in PLAIN_IN_LAYER:
        return [prefix + PLAIN_IN_LAYER[suffix]]
    if suffix == "self_attention.linear_qkv.weight":
        return [f"{prefix}self_attn.{letter}_proj.weight" for letter in "qkv"]
    if suffix == "mlp.linear_fc1.weight":
        return [f"{prefix}mlp.gate_proj.weight", f"{prefix}mlp.up_proj.weight"]
    expert = EXPERT.match(suffix)
    assert expert is not None, name
    numbers = (1, 3) if expert[2] == "linear_fc1" else (2,)
    return [f"{prefix}block_sparse_moe.experts.{expert[1]}.w{number}.weight" for number in numbers]


def global_tensor(name: str, tensors: Mapping[str, Array], model: ModelSpec) -> Array:
    """One of our parameters, from a Llama's or Mixtral's tensors; the order of rows is ours."""
    parts = [tensors[theirs] for theirs in huggingface_names(name)]
    if name.endswith("linear_qkv.weight"):
        q, k, v = parts
        return join_qkv(q, k, v, model)
    return parts[0] if len(parts) == 1 else concatenated(parts)


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
