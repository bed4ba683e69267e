"""What every growth method must keep, whichever it is."""

import pytest
import torch

from pipelines.megatron.flops import count_parameters
from pipelines.megatron.spec import ModelSpec
from pipelines.runs.methods import list_methods, load_method, method_card

BASE = ModelSpec(
    num_layers=2, hidden_size=8, ffn_hidden_size=12, num_attention_heads=2, num_query_groups=1, seq_length=8
)
VOCAB_SIZE = 11
GROWING = [name for name in list_methods("growth") if method_card("growth", name).axis != "none"]


def base_tensors():
    shapes = {"embedding.word_embeddings.weight": (VOCAB_SIZE, 8)}
    for i in range(2):
        layer = f"decoder.layers.{i}."
        shapes |= {
            f"{layer}input_layernorm.weight": (8,),
            f"{layer}self_attention.linear_proj.weight": (8, 8),
            f"{layer}self_attention.linear_qkv.weight": (16, 8),
            f"{layer}pre_mlp_layernorm.weight": (8,),
            f"{layer}mlp.linear_fc1.weight": (24, 8),
            f"{layer}mlp.linear_fc2.weight": (8, 12),
        }
    shapes["decoder.final_layernorm.weight"] = (8,)
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", list_methods("growth"))
def test_every_method_names_its_paper(name):
    method = load_method("growth", name)
    assert "Paper:" in __import__(type(method).__module__, fromlist=["_"]).__doc__


@pytest.mark.parametrize("name", GROWING)
def test_every_growing_method_gives_the_parameters_of_its_target_in_buffers_of_their_own(name):
    method, tensors = load_method("growth", name), base_tensors()
    before = {key: value.clone() for key, value in tensors.items()}
    grown = dict(method.grow(BASE, tensors, 0))
    assert sum(tensor.numel() for tensor in grown.values()) == count_parameters(method.target(BASE), VOCAB_SIZE)
    for tensor in grown.values():
        tensor.zero_()
    assert all(torch.equal(tensors[key], before[key]) for key in tensors)
    pointers = [tensor.untyped_storage().data_ptr() for tensor in grown.values()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("name", GROWING)
def test_every_growing_method_is_deterministic_and_says_whether_it_preserves_the_function(name):
    method = load_method("growth", name)
    first, second = dict(method.grow(BASE, base_tensors(), 0)), dict(method.grow(BASE, base_tensors(), 0))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    preservation = method.preserves(BASE)
    assert preservation.preserved is (preservation.kind != "none")
    assert (preservation.bound is None) is (preservation.kind == "none")
    assert preservation.kind == "exact" or preservation.condition


@pytest.mark.parametrize("name", list_methods("growth"))
def test_every_card_says_what_the_method_grows_without_importing_it(name):
    card = method_card("growth", name)
    assert card.axis in ("depth", "width", "both", "none")
    assert card.axis == "none" or "base" in card.requires
