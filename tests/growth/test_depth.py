"""Growth on named tensors alone: what is copied where, and what is refused."""

import pytest
import torch

from pipelines.growth.depth import connection_rate, copy_layers
from pipelines.megatron.spec import ModelSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

BASE = ModelSpec(
    num_layers=3, hidden_size=8, ffn_hidden_size=12, num_attention_heads=2, num_query_groups=1, seq_length=8
)
SUFFIXES = ("input_layernorm.weight", "self_attention.linear_qkv.weight", "mlp.linear_fc1.weight")


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    names = ["embedding.word_embeddings.weight"]
    names += [f"decoder.layers.{i}.{suffix}" for i in range(BASE.num_layers) for suffix in SUFFIXES]
    names += ["decoder.final_layernorm.weight", "output_layer.weight"]
    return {name: torch.randn(4, 2, generator=generator) for name in names}


def naive_stack(tensors, growth_factor, num_layers):
    """Algorithm 1 of arXiv 2405.15319: layer i is a copy of layer i mod l."""
    grown = {name: tensor for name, tensor in tensors.items() if ".layers." not in name}
    for i in range(growth_factor * num_layers):
        for suffix in SUFFIXES:
            grown[f"decoder.layers.{i}.{suffix}"] = tensors[f"decoder.layers.{i % num_layers}.{suffix}"]
    return grown


@pytest.mark.parametrize("growth_factor", [1, 2, 4])
def test_stack_equals_the_algorithm_of_the_paper_tensor_by_tensor(tensors, growth_factor):
    method = load_method("growth", {"name": "stack", "growth_factor": growth_factor})
    grown = dict(method.grow(BASE, tensors, 0))
    expected = naive_stack(tensors, growth_factor, BASE.num_layers)
    assert grown.keys() == expected.keys()
    assert all(torch.equal(grown[name], expected[name]) for name in grown)
    assert method.target(BASE).num_layers == growth_factor * BASE.num_layers


def test_growth_factor_one_gives_the_same_names_in_the_same_order_and_the_same_bytes(tensors):
    grown = dict(load_method("growth", {"name": "stack", "growth_factor": 1}).grow(BASE, tensors, 0))
    assert list(grown) == list(tensors)
    assert all(grown[name].numpy().tobytes() == tensors[name].numpy().tobytes() for name in tensors)


def test_every_copy_is_an_independent_buffer(tensors):
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    grown = dict(load_method("growth", {"name": "stack", "growth_factor": 2}).grow(BASE, tensors, 0))
    changed = "decoder.layers.0.mlp.linear_fc1.weight"
    grown[changed].add_(1.0)
    twin = "decoder.layers.3.mlp.linear_fc1.weight"
    assert torch.equal(grown[twin], before[changed])
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)
    pointers = [tensor.untyped_storage().data_ptr() for tensor in grown.values()]
    assert len(set(pointers)) == len(pointers)


def test_a_stacking_list_places_any_layer_anywhere(tensors):
    method = load_method("growth", {"name": "stack", "stacking_list": [0, 1, 1, 2]})
    grown = dict(method.grow(BASE, tensors, 0))
    for target, source in enumerate([0, 1, 1, 2]):
        for suffix in SUFFIXES:
            expected = tensors[f"decoder.layers.{source}.{suffix}"]
            assert torch.equal(grown[f"decoder.layers.{target}.{suffix}"], expected)
    assert method.target(BASE).num_layers == 4


def test_grown_tensors_come_one_by_one(tensors):
    looked_up = []

    class Watched(dict):
        def __getitem__(self, name):
            looked_up.append(name)
            return super().__getitem__(name)

    for seen, _ in enumerate(copy_layers(Watched(tensors), [0, 1, 2, 0, 1, 2]), start=1):
        assert len(looked_up) == seen


@pytest.mark.parametrize(
    ("stacking_list", "rate"),
    [
        (list(range(6)) * 4, 86.96),
        (list(range(8)) * 3, 91.30),
        ([i for i in range(8) for _ in range(3)], 30.43),
        ([0, 1, 2] * 7 + [3, 4, 5], 73.91),
        ([0, 1, 2, 3] + [4, 5] * 10, 60.87),
        ([0, 1] + [2, 3, 4, 5] * 5 + [4, 5], 78.26),
    ],
)
def test_connection_rates_are_those_of_the_papers_table(stacking_list, rate):
    assert len(stacking_list) == 24
    assert connection_rate(stacking_list) == pytest.approx(rate, abs=0.005)


def test_facts_say_that_stacking_does_not_preserve_the_function():
    method = load_method("growth", {"name": "stack", "growth_factor": 2})
    assert method.facts(BASE) == {"stacking_list": [0, 1, 2, 0, 1, 2], "connection_rate": 80.0}
    assert method.preserves(BASE).kind == "none"
    assert load_method("growth", {"name": "stack", "growth_factor": 1}).preserves(BASE).kind == "exact"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "stack", "growth_factor": 0}, "growth_factor must be at least 1"),
        ({"name": "stack", "stacking_list": [0, 1, 3]}, "index 3 is out of range"),
        ({"name": "stack", "stacking_list": [0, 1, -1]}, "index -1 is out of range"),
        ({"name": "stack", "stacking_list": [0, 1]}, "growth to fewer layers"),
        ({"name": "stack", "stacking_list": [0, 2, 2, 0]}, "layer 1 of the base is missing"),
        ({"name": "stack", "noise_coeff": 1.5}, "noise_coeff must be between 0 and 1"),
        ({"name": "zero_depth", "stacking_list": [0, 2, 1, 2]}, "must come in the base's order"),
        ({"name": "zero_depth", "growth_factor": 0}, "growth_factor must be at least 1"),
        ({"name": "random_depth", "stacking_list": [1, 0, 1, 2]}, "must come in the base's order"),
        ({"name": "random_depth", "ramp_iters": -1}, "ramp_iters must be at least 0"),
        ({"name": "stack", "stacking_list": []}, "growth to fewer layers"),
        ({"name": "scratch"}, "scratch grows nothing"),
    ],
)
def test_growth_that_makes_no_sense_is_refused(method, message):
    with pytest.raises(RetraceError, match=message):
        load_method("growth", method).target(BASE)


@pytest.mark.parametrize(
    ("pattern", "num_layers", "growth_factor", "layers", "rate"),
    [
        # 123456*4 and 123*7-456 are of the paper; its rates (eq 51) to two decimals.
        ("stack", 6, 4, [0, 1, 2, 3, 4, 5] * 4, 86.96),
        ("front", 6, 4, [0, 1, 2] * 7 + [3, 4, 5], 73.91),
        ("back", 6, 4, [0, 1, 2] + [3, 4, 5] * 7, 73.91),
        ("middle", 4, 2, [0, 1, 2, 1, 2, 1, 2, 3], 71.43),
        ("interpolate", 8, 3, [layer for layer in range(8) for _ in range(3)], 30.43),
        ("stack", 8, 3, [0, 1, 2, 3, 4, 5, 6, 7] * 3, 91.30),
        ("front", 2, 3, [0, 0, 0, 0, 0, 1], 20.0),
        ("middle", 3, 2, [0, 1, 1, 1, 1, 2], 40.0),
        ("back", 4, 4, [0, 1] + [2, 3] * 7, 60.0),
    ],
)
def test_patterns_are_the_papers_lists_with_their_connection_rates(pattern, num_layers, growth_factor, layers, rate):
    base = BASE.model_copy(update={"num_layers": num_layers})
    method = load_method("growth", {"name": "stack", "growth_factor": growth_factor, "pattern": pattern})
    assert method.layers(base) == layers
    assert connection_rate(layers) == pytest.approx(rate, abs=5e-3)


def test_a_part_of_too_few_layers_is_refused():
    method = load_method("growth", {"name": "stack", "pattern": "back"})
    with pytest.raises(RetraceError, match=r"method\.pattern back repeats a part .* a base of 1 has none"):
        method.layers(BASE.model_copy(update={"num_layers": 1}))
