"""A LLaMA-style model in plain torch, from its definition, on a checkpoint's tensors. What our kernels must equal."""

import math

import torch
from torch.nn import functional


def rms_norm(x, weight, eps):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotary(x, base):
    """x [b, heads, s, d]."""
    s, d = x.shape[-2:]
    angles = torch.outer(torch.arange(s, dtype=x.dtype), base ** (-torch.arange(0, d, 2, dtype=x.dtype) / d))
    cos, sin = angles.cos(), angles.sin()
    first, second = x[..., : d // 2], x[..., d // 2 :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attention(x, qkv, proj, spec):
    """x [b, s, h]; rows of qkv lie by group: its queries, its key, its value."""
    b, s, h = x.shape
    d, groups = h // spec.num_attention_heads, spec.num_query_groups
    per_group = spec.num_attention_heads // groups
    mixed = (x @ qkv.T).view(b, s, groups, per_group + 2, d)
    heads = []
    for group in range(groups):
        key, value = (rotary(mixed[:, :, group, per_group][:, None], spec.rotary_base), mixed[:, :, group, -1][:, None])
        for query in range(per_group):
            rotated = rotary(mixed[:, :, group, query][:, None], spec.rotary_base)
            scores = rotated @ key.transpose(-1, -2) / math.sqrt(d)
            scores = scores.masked_fill(torch.ones(s, s).triu(1).bool(), -math.inf)
            heads.append((scores.softmax(-1) @ value)[:, 0])
    return torch.cat(heads, dim=-1) @ proj.T


def swiglu(x, fc1, fc2):
    gate, up = (x @ fc1.T).chunk(2, dim=-1)
    return (gate * torch.sigmoid(gate) * up) @ fc2.T


def mixture(x, w, layer, experts):
    """Top-k of softmax(router), renormalised over the chosen; a loop over tokens and experts."""
    flat = x.reshape(-1, x.shape[-1])
    logits = flat @ w[f"{layer}.mlp.router.weight"].T
    out = torch.zeros_like(flat)
    for token in range(len(flat)):
        chosen = logits[token].topk(experts.moe_router_topk)
        for gate, index in zip(chosen.values.softmax(-1), chosen.indices.tolist(), strict=True):
            expert = f"{layer}.mlp.experts.local_experts.{index}"
            fc1, fc2 = w[f"{expert}.linear_fc1.weight"], w[f"{expert}.linear_fc2.weight"]
            out[token] = out[token] + gate * swiglu(flat[token], fc1, fc2)
    return out.view_as(x)


def logits(w, spec, tokens, experts=None):
    """w: global name -> tensor; tokens [b, s] -> [b, s, V]."""
    x = functional.embedding(tokens, w["embedding.word_embeddings.weight"])
    eps = spec.layernorm_epsilon
    for number in range(spec.num_layers):
        layer = f"decoder.layers.{number}"
        qkv, proj = (w[f"{layer}.self_attention.linear_{name}.weight"] for name in ("qkv", "proj"))
        x = x + attention(rms_norm(x, w[f"{layer}.input_layernorm.weight"], eps), qkv, proj, spec)
        normed = rms_norm(x, w[f"{layer}.pre_mlp_layernorm.weight"], eps)
        if experts is None:
            x = x + swiglu(normed, w[f"{layer}.mlp.linear_fc1.weight"], w[f"{layer}.mlp.linear_fc2.weight"])
        else:
            x = x + mixture(normed, w, layer, experts)
    head = w.get("output_layer.weight", w["embedding.word_embeddings.weight"])
    return rms_norm(x, w["decoder.final_layernorm.weight"], eps) @ head.T
