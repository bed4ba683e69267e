"""Small models as named tensors: drawn at random, or trained for a moment; and widenings spelled out by hand."""

import torch

from pipelines.megatron.checkpoint import write_checkpoint
from pipelines.megatron.definition import gradients_of
from pipelines.megatron.spec import ExpertSpec, ModelSpec

VOCAB_SIZE = 32
MODEL = ModelSpec(
    num_layers=2, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, seq_length=16
)
EXPERTS = ExpertSpec(num_moe_experts=4, moe_router_topk=2, moe_ffn_hidden_size=8)


def weights(model=MODEL, experts=None, seed=0, scale=0.3, vocab_size=VOCAB_SIZE):
    """Global name -> float64 tensor, as float32 holds them."""
    generator = torch.Generator().manual_seed(seed)
    h, head = model.hidden_size, model.hidden_size // model.num_attention_heads

    def matrix(*shape):
        return scale * torch.randn(shape, generator=generator)

    def gain():
        return 1 + 0.2 * torch.randn(h, generator=generator)

    tensors = {"embedding.word_embeddings.weight": torch.randn(vocab_size, h, generator=generator)}
    for number in range(model.num_layers):
        layer = {
            "input_layernorm.weight": gain(),
            "self_attention.linear_proj.weight": matrix(h, h),
            "self_attention.linear_qkv.weight": matrix(
                (model.num_attention_heads + 2 * model.num_query_groups) * head, h
            ),
            "pre_mlp_layernorm.weight": gain(),
        }
        if experts is None:
            layer["mlp.linear_fc1.weight"] = matrix(2 * model.ffn_hidden_size, h)
            layer["mlp.linear_fc2.weight"] = matrix(h, model.ffn_hidden_size)
        else:
            layer["mlp.router.weight"] = matrix(experts.num_moe_experts, h)
            for expert in range(experts.num_moe_experts):
                name = f"mlp.experts.local_experts.{expert}.linear_fc"
                layer[f"{name}1.weight"] = matrix(2 * experts.moe_ffn_hidden_size, h)
                layer[f"{name}2.weight"] = matrix(h, experts.moe_ffn_hidden_size)
        tensors |= {f"decoder.layers.{number}.{suffix}": tensor for suffix, tensor in layer.items()}
    tensors["decoder.final_layernorm.weight"] = gain()
    if model.untie_embeddings_and_output_weights:
        tensors["output_layer.weight"] = matrix(vocab_size, h)
    return {name: tensor.double() for name, tensor in tensors.items()}


def step(tensors, model, experts=None, lr=1e-2, tokens=None):
    """The tensors after AdamW's first step (no decay): every entry moves against its gradient's sign, by lr."""
    if tokens is None:
        # Sequences that count up: something to learn.
        tokens = (torch.arange(model.seq_length) + 7 * torch.arange(4)[:, None]) % VOCAB_SIZE
    slopes = {each.name: each.gradient for each in gradients_of(tensors, model, experts, tokens)}
    return {name: tensor - lr * slopes[name] / (slopes[name].abs() + 1e-8) for name, tensor in tensors.items()}


def trained(model=MODEL, experts=None, steps=15):
    """Weights that have learnt a little: no longer random."""
    tensors = weights(model, experts)
    for _ in range(steps):
        tensors = step(tensors, model, experts)
    return {name: tensor.float().double() for name, tensor in tensors.items()}


def write_base(folder, tensors, experts=None, moe_method="topk"):
    """Write tensors of MODEL's shape as a checkpoint of ours; returns its folder, made here."""
    config = {
        "model": MODEL.model_dump(),
        "experts": experts and experts.model_dump(),
        "moe_method": {"name": moe_method} if experts else None,
        "vocab_size": VOCAB_SIZE,
    }
    folder.mkdir()
    write_checkpoint(folder, config, tensors)
    return folder


def widened(model, k=2, ffn=True):
    """Shape of a dense model k times as wide, its heads as large as before, with as many queries a group."""
    changes = {each: k * getattr(model, each) for each in ("hidden_size", "num_attention_heads", "num_query_groups")}
    return model.model_copy(update={**changes, "ffn_hidden_size": (k if ffn else 1) * model.ffn_hidden_size})


def duplicated(tensors, model, share=0.5):
    """Every unit of an untied dense model twice; of what is read from the pair the copies' columns carry shares
    ``share`` and ``1 - share``. Half and half is the even split."""
    grown = {}
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            grown[name] = torch.cat([tensor, tensor])
            continue
        rows = tensor
        if name.endswith("linear_fc1.weight"):
            gate, up = tensor.chunk(2)
            rows = torch.cat([gate, gate, up, up])
        elif name not in ("embedding.word_embeddings.weight", "output_layer.weight"):
            rows = torch.cat([tensor, tensor])
        shares = (1.0, 1.0) if name.startswith("embedding.") else (share, 1 - share)
        grown[name] = torch.cat([rows * each for each in shares], dim=1)
    return grown


def zero_padded(tensors, model, scale_gains=True, new_gains=0.7):
    """The base, [[W, A], [0, C]] in every matrix of a model twice as wide (arXiv 2405.15319, eq 14)."""
    generator = torch.Generator().manual_seed(1)

    def framed(w, new_rows):
        top = torch.cat([w, 0.3 * torch.randn(w.shape, generator=generator).double()], dim=1)
        corner = 0.3 * torch.randn(w.shape, generator=generator).double()
        return torch.cat([top, torch.cat([torch.zeros_like(w), corner], dim=1)]) if new_rows else top

    grown = {}
    for name, tensor in tensors.items():
        if name.endswith("norm.weight"):
            factor = 0.5**0.5 if scale_gains else 1.0
            grown[name] = torch.cat([factor * tensor, torch.full_like(tensor, new_gains)])
        elif name.startswith("embedding."):
            grown[name] = torch.cat([tensor, torch.zeros_like(tensor)], dim=1)
        elif name == "output_layer.weight":
            grown[name] = framed(tensor, new_rows=False)
        elif name.endswith("linear_fc1.weight"):
            grown[name] = torch.cat([framed(half, new_rows=True) for half in tensor.chunk(2)])
        else:
            grown[name] = framed(tensor, new_rows=True)
    return grown
