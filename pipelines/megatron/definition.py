"""The model by its definition, in plain torch: any floating dtype, one layer at a time, differentiable.

What certificates are measured with: float64 tells an exact identity (1e-15) from a small mistake (a wrong epsilon is
5e-6), which the kernels of training cannot. Never used to train.

Shapes: B batch, S sequence, H hidden, V vocabulary, G query groups, d head size, T tokens, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.megatron.checkpoint import in_order
from pipelines.megatron.huggingface import LAYER
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.megatron.spec import ExpertSpec, ModelSpec

EMBEDDING = "embedding.word_embeddings.weight"
FINAL_NORM = "decoder.final_layernorm.weight"
HEAD = "output_layer.weight"


class Gradient(NamedTuple):
    """A parameter and the gradient of the mean loss in it, both in float64 and of one shape."""

    name: str
    weight: Tensor
    gradient: Tensor


def logits_of(
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    model: ModelSpec,
    experts: ExpertSpec | None,
    tokens_BS: Tensor,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Logits [B, S, V], holding one layer at a time.

    Args:
        tensors: by global name; a stream of pairs must come in the model's order: embedding, layers, final norm, head.
        experts: of a mixture with megatron's top-k router.

    Raises:
        RetraceError: a parameter is missing, or one that the model has no place for.
    """
    pairs = ((name, tensors[name]) for name in in_order(tensors)) if isinstance(tensors, Mapping) else tensors
    outside: dict[str, Tensor] = {}
    inside: dict[str, Tensor] = {}
    x_BSH: Tensor | None = None
    number = 0

    def finish_layer(x_BSH: Tensor) -> Tensor:
        nonlocal number
        x_BSH = layer(x_BSH, inside, model, experts, f"decoder.layers.{number}.")
        inside.clear()
        number += 1
        return x_BSH

    for name, tensor in pairs:
        match = LAYER.match(name)
        if match is None:
            outside[name] = tensor
            continue
        if x_BSH is None:
            x_BSH = functional.embedding(tokens_BS, _required(outside, EMBEDDING)).to(dtype)
        if int(match[1]) == number + 1:
            x_BSH = finish_layer(x_BSH)
        if int(match[1]) != number:
            raise RetraceError(f"{name} comes after layer {number} has begun: layers must come in order, none missing")
        inside[match[2]] = tensor.to(dtype)
    if x_BSH is None or number + 1 != model.num_layers:
        raise RetraceError(f"the weights have {number + (x_BSH is not None)} layers, the model {model.num_layers}")
    x_BSH = finish_layer(x_BSH)
    normed_BSH = rms_norm(x_BSH, _required(outside, FINAL_NORM).to(dtype), model.layernorm_epsilon)
    head = HEAD if model.untie_embeddings_and_output_weights else EMBEDDING
    return normed_BSH @ _required(outside, head).to(dtype).T


def mean_loss(logits_BSV: Tensor, tokens_BS: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats, of each token after the first of its row (a scalar)."""
    return functional.cross_entropy(logits_BSV[:, :-1].flatten(0, 1), tokens_BS[:, 1:].flatten())


def gradients_of(
    tensors: Mapping[str, Tensor], model: ModelSpec, experts: ExpertSpec | None, tokens_BS: Tensor
) -> Iterator[Gradient]:
    """The gradient of ``mean_loss`` in every parameter, in float64, holding one layer at a time.

    From the head to the embedding; layers backwards. Experts that no token chose have gradient zero.
    """
    eps, tied = model.layernorm_epsilon, not model.untie_embeddings_and_output_weights
    suffixes: dict[int, list[str]] = {number: [] for number in range(model.num_layers)}
    for name in tensors:
        if match := LAYER.match(name):
            suffixes[int(match[1])].append(match[2])

    def load(number: int, requires_grad: bool) -> dict[str, Tensor]:
        prefix = f"decoder.layers.{number}."
        return {
            suffix: tensors[prefix + suffix].detach().double().requires_grad_(requires_grad)
            for suffix in suffixes[number]
        }

    with torch.no_grad():
        states = [functional.embedding(tokens_BS, tensors[EMBEDDING]).double()]
        for number in range(model.num_layers):
            prefix = f"decoder.layers.{number}."
            states.append(layer(states[-1], load(number, False), model, experts, prefix))

    last = states.pop().requires_grad_()
    gain, head = (
        tensors[name].detach().double().requires_grad_() for name in (FINAL_NORM, EMBEDDING if tied else HEAD)
    )
    loss = mean_loss(rms_norm(last, gain, eps) @ head.T, tokens_BS)
    x_grad, gain_grad, head_grad = torch.autograd.grad(loss, (last, gain, head))
    del loss
    if not tied:
        yield Gradient(HEAD, head.detach(), head_grad)
        # Two of the largest tensors: not held while the layers pass.
        del head, head_grad
    yield Gradient(FINAL_NORM, gain.detach(), gain_grad)
    for number in reversed(range(model.num_layers)):
        before, weights = states.pop().requires_grad_(), load(number, True)
        prefix = f"decoder.layers.{number}."
        out = layer(before, weights, model, experts, prefix)
        grads = torch.autograd.grad(out, [before, *weights.values()], x_grad, materialize_grads=True)
        x_grad = grads[0]
        for (suffix, weight), gradient in zip(weights.items(), grads[1:], strict=True):
            yield Gradient(prefix + suffix, weight.detach(), gradient)
    embedding = head.detach() if tied else tensors[EMBEDDING].detach().double()
    gradient = head_grad if tied else torch.zeros_like(embedding)
    gradient.index_add_(0, tokens_BS.flatten(), x_grad.flatten(0, 1))
    yield Gradient(EMBEDDING, embedding, gradient)


def layer(
    x_BSH: Tensor, weights: Mapping[str, Tensor], model: ModelSpec, experts: ExpertSpec | None, prefix: str = ""
) -> Tensor:
    """One decoder layer, [B, S, H] -> [B, S, H].

    Args:
        weights: by the global name after ``decoder.layers.<number>.``.
        prefix: put before a missing name in the error.
    """
    eps = model.layernorm_epsilon

    def get(suffix: str) -> Tensor:
        return _required(weights, suffix, prefix)

    normed = rms_norm(x_BSH, get("input_layernorm.weight"), eps)
    qkv, proj = get("self_attention.linear_qkv.weight"), get("self_attention.linear_proj.weight")
    x_BSH = x_BSH + attention(normed, qkv, proj, model)
    normed = rms_norm(x_BSH, get("pre_mlp_layernorm.weight"), eps)
    if experts is None:
        return x_BSH + swiglu(normed, get("mlp.linear_fc1.weight"), get("mlp.linear_fc2.weight"))
    flat_TH = normed.flatten(0, 1)
    scores_TE, chosen_TE = routing(flat_TH @ get("mlp.router.weight").T, experts.moe_router_topk)
    out_TH = torch.zeros_like(flat_TH)
    for expert in range(experts.num_moe_experts):
        here = chosen_TE[:, expert].nonzero().squeeze(-1)
        if len(here):
            name = f"mlp.experts.local_experts.{expert}.linear_fc"
            out = swiglu(flat_TH[here], get(f"{name}1.weight"), get(f"{name}2.weight"))
            out_TH = out_TH.index_add(0, here, out * scores_TE[here, expert, None])
    return x_BSH + out_TH.view_as(x_BSH)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * gain`` over the last dimension."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain


def attention(x_BSH: Tensor, qkv: Tensor, proj: Tensor, model: ModelSpec) -> Tensor:
    """Causal self-attention; rows of ``qkv`` lie by group: its queries, its key, its value. [B, S, H] -> [B, S, H]."""
    b, s, _ = x_BSH.shape
    groups, d = model.num_query_groups, model.hidden_size // model.num_attention_heads
    per_group = model.num_attention_heads // groups
    mixed = (x_BSH @ qkv.T).view(b, s, groups, per_group + 2, d).permute(0, 2, 3, 1, 4)
    here = {"dtype": x_BSH.dtype, "device": x_BSH.device}
    angles = torch.outer(torch.arange(s, **here), model.rotary_base ** (-torch.arange(0, d, 2, **here) / d))
    query, key = (_rotate(each, angles.cos(), angles.sin()) for each in (mixed[:, :, :-2], mixed[:, :, -2:-1]))
    scores = query @ key.transpose(-1, -2) / math.sqrt(d)
    scores = scores.masked_fill(torch.ones(s, s, dtype=torch.bool, device=x_BSH.device).triu(1), -math.inf)
    context = scores.softmax(-1) @ mixed[:, :, -1:]
    return context.permute(0, 3, 1, 2, 4).reshape(b, s, -1) @ proj.T


def swiglu(x: Tensor, fc1: Tensor, fc2: Tensor) -> Tensor:
    """``(silu(x gate^T) * (x up^T)) fc2^T``; fc1 holds the gate's rows, then the up projection's."""
    gate, up = (x @ fc1.T).chunk(2, dim=-1)
    return (functional.silu(gate) * up) @ fc2.T


def routing(logits_TE: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Weight of every expert for every token, and which are chosen, [T, E] each (see ``model.transformer_config``)."""
    values, indices = logits_TE.topk(topk, dim=-1)
    # With one expert a token its softmax over the chosen would always be 1: there it is taken over all of them.
    scores = values.softmax(-1) if topk > 1 else logits_TE.softmax(-1).gather(-1, indices)
    scattered = torch.zeros_like(logits_TE).scatter(-1, indices, scores)
    return scattered, torch.zeros_like(logits_TE, dtype=torch.bool).scatter(-1, indices, True)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _required(tensors: Mapping[str, Tensor], name: str, prefix: str = "") -> Tensor:
    if name not in tensors:
        raise RetraceError(f"the weights lack {prefix}{name}: the checkpoint and its config do not agree")
    return tensors[name]
