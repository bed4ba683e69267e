"""Learnt width, alone and with depth: the papers' equations, gradients to the maps alone, and their cost."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.growth.grow import grow
from pipelines.growth.learning import backward, learn, learning_cost
from pipelines.growth.slices import Shape
from pipelines.growth.spec import GrowSpec
from pipelines.megatron.checkpoint import read_config
from pipelines.megatron.definition import logits_of
from pipelines.megatron.flops import training_flops_per_token
from pipelines.megatron.huggingface import split_qkv
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

sys.path.insert(0, str(Path(__file__).parent))
import small_models as models

EXPERTS, MODEL = models.EXPERTS, models.MODEL
UNTIED = MODEL.model_copy(update={"untie_embeddings_and_output_weights": True})
MULTI_HEAD = MODEL.model_copy(update={"num_query_groups": 4})
OPTIONS = {"learn_iters": 4, "learn_batch_size": 4, "learn_lr": 0.02}
WIDTH = {"name": "learn_width", **OPTIONS}
BOTH = {"name": "learn_both", **OPTIONS}


def sequences(first, count):
    return (torch.arange(MODEL.seq_length + 1) + torch.arange(first, first + count)[:, None]) % models.VOCAB_SIZE


def target_of(method, base):
    return Shape(method.target(base.model), method.target_experts(base.experts) if base.experts else None)


def random_maps(method, base, tensors):
    generator = torch.Generator().manual_seed(0)
    return {
        name: each.double() + 0.3 * torch.randn(each.shape, generator=generator)
        for name, each in method.initial_maps(base, tensors, 0).items()
    }


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("model", [UNTIED, MULTI_HEAD])
def test_every_grown_matrix_is_that_of_the_papers_equations(model):
    method, base, tensors = load_method("growth", WIDTH), Shape(model), models.weights(model)
    maps = random_maps(method, base, tensors)
    grown, wide = dict(method.mapped(base, tensors, maps)), method.target(model)
    residual, ffn = maps["residual"], maps["ffn"]
    read = maps["value" if model is MULTI_HEAD else "output"]
    for name, tensor in tensors.items():
        if name.endswith("linear_qkv.weight"):
            pieces = zip(split_qkv(grown[name], wide), split_qkv(tensor, model), ("query", "key", "value"), strict=True)
            for ours, theirs, axis in pieces:
                close(ours, maps[axis] @ theirs @ residual.T)
        elif name.endswith("linear_fc1.weight"):
            for ours, theirs in zip(grown[name].chunk(2), tensor.chunk(2), strict=True):
                close(ours, ffn @ theirs @ residual.T)
        elif name.endswith("linear_fc2.weight"):
            close(grown[name], residual @ tensor @ ffn.T)
        elif name.endswith("linear_proj.weight"):
            close(grown[name], residual @ tensor @ read.T)
        elif name.endswith("norm.weight"):
            close(grown[name], residual @ tensor)
        else:
            close(grown[name], tensor @ residual.T)


@pytest.mark.parametrize("experts", [None, EXPERTS])
@pytest.mark.parametrize("model", [MODEL, UNTIED, MULTI_HEAD])
def test_the_initial_maps_are_the_identity_over_random_rows(model, experts, job):
    method, base = load_method("growth", {**WIDTH, "learn_iters": 0}), Shape(model, experts)
    tensors = models.weights(model, experts)
    maps = method.initial_maps(base, tensors, 0)
    for each in maps.values():
        assert torch.equal(each[: each.shape[1]], torch.eye(each.shape[1]))
        assert float(each[each.shape[1] :].std()) == pytest.approx(len(each) ** -0.5, rel=0.3)
    grown = dict(method.grow(model, tensors, 0))
    with job("nothing") as made:
        learned = learn(method, base, target_of(method, base), tensors, sequences, 0, made)
    assert all(torch.equal(tensor, grown[name]) for name, tensor in learned.grow(model, tensors, 0))
    # Old units first, and what they write to each other unchanged.
    name = next(name for name in tensors if name.endswith("linear_fc2.weight"))
    rows, columns = tensors[name].shape
    close(grown[name][:rows, :columns], tensors[name])


@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_both_axes_learnt_are_layers_combined_of_widened_ones(experts):
    method, base = load_method("growth", BOTH), Shape(MODEL, experts)
    tensors = models.weights(experts=experts)
    maps = random_maps(method, base, tensors)
    grown = dict(method.mapped(base, tensors, maps))
    width, depth = load_method("growth", WIDTH), load_method("growth", {"name": "learn_depth", "growth_factor": 2})
    parts = {
        part: {name.removeprefix(part): each for name, each in maps.items() if name.startswith(part)}
        for part in ("width/", "depth/")
    }
    widened = dict(width.mapped(base, tensors, parts["width/"]))
    expected = dict(depth.mapped(target_of(width, base), widened, parts["depth/"]))
    assert list(grown) == list(expected)
    for name, tensor in expected.items():
        close(grown[name], tensor)
    # Without learning: the widened layers stacked.
    initial = dict(method.grow(MODEL, tensors, 0))
    stacked = load_method("growth", {"name": "stack", "growth_factor": 2})
    for name, tensor in stacked.grow(width.target(MODEL), dict(width.grow(MODEL, tensors, 0)), 0):
        assert torch.equal(initial[name], tensor)
    for name, tensor in method.mapped(base, tensors, method.initial_maps(base, tensors, 0)):
        assert torch.equal(initial[name], tensor)


@pytest.mark.parametrize("spec", [WIDTH, BOTH])
def test_the_gradient_is_that_of_finite_differences_and_reaches_the_maps_alone(spec):
    method, base = load_method("growth", spec), Shape(MODEL)
    target = target_of(method, base)
    tensors = {name: tensor.requires_grad_(False) for name, tensor in models.trained().items()}
    maps = {name: each.requires_grad_() for name, each in random_maps(method, base, tensors).items()}
    tokens = sequences(0, 10)
    loss = backward(dict(method.mapped(base, tensors, maps)), target, tokens)
    assert all(tensor.grad is None for tensor in tensors.values())
    with torch.no_grad():
        for name, each in maps.items():
            changed = {**maps, name: each.clone()}
            changed[name][-1, 0] += 1e-6
            logits = logits_of(dict(method.mapped(base, tensors, changed)), target.model, None, tokens[:, :-1])
            other = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
            assert (other - loss) / 1e-6 == pytest.approx(float(each.grad[-1, 0]), rel=1e-3, abs=1e-6), name


@pytest.mark.parametrize("spec", [WIDTH, BOTH])
def test_learning_lowers_the_loss(spec, job):
    method, base, tensors = load_method("growth", {**spec, "learn_iters": 20}), Shape(MODEL), models.trained(steps=60)
    with job("learn") as made:
        target = target_of(method, base)
        learned = learn(method, base, target, tensors, lambda first, count: sequences(0, count), 0, made)
    assert learned.losses[-1] < 0.8 * learned.losses[0]
    assert learned.facts(MODEL)["last_learn_loss"] == learned.losses[-1]


@pytest.mark.parametrize("model", [UNTIED, MULTI_HEAD])
@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_the_cost_of_the_map_is_what_torch_counts(model, experts):
    method, base, tensors = load_method("growth", WIDTH), Shape(model, experts), models.weights(model, experts)
    maps = {name: each.requires_grad_() for name, each in random_maps(method, base, tensors).items()}
    with FlopCounterMode(display=False) as counter:
        grown = dict(method.mapped(base, tensors, maps))
        torch.autograd.backward(list(grown.values()), [torch.ones_like(each) for each in grown.values()])
    assert method.map_flops(base, models.VOCAB_SIZE) == counter.get_total_flops()
    cost, target = learning_cost(method, base, target_of(method, base), models.VOCAB_SIZE), target_of(method, base)
    a_token = training_flops_per_token(target.model, models.VOCAB_SIZE, target.experts)
    assert cost.flops == cost.tokens * a_token + 4 * method.map_flops(base, models.VOCAB_SIZE)


@pytest.mark.parametrize("spec", [WIDTH, BOTH])
def test_growing_a_checkpoint_charges_what_learning_has_cost(spec, tmp_path, tokens, job):
    base = models.write_base(tmp_path / "base", models.trained())
    with job("grown") as made:
        grow(GrowSpec(method=spec), {"input": base, "tokens": tokens}, made)
    config = read_config(made.out)
    assert config["flops_spent"] == made.facts["learning_flops"]
    assert config["model"]["hidden_size"] == 32
    assert config["model"]["num_layers"] == (4 if spec is BOTH else 2)
    assert made.facts["certificate"]["checkpoint"]["relative_deviation"] > 0


def test_widths_that_come_out_broken_are_refused():
    with pytest.raises(RetraceError, match="width_factor must be at least 1"):
        load_method("growth", {"name": "learn_both", "width_factor": 0.5})
    with pytest.raises(RetraceError, match="gives no whole number"):
        load_method("growth", {**WIDTH, "growth_factor": 1.25}).target(MODEL)
