"""Both axes at once: every pair of operators, exact where both are, with gradients and masks through both."""

import sys
from pathlib import Path

import pytest
import torch

from pipelines.growth.certificate import deviation, random_tokens
from pipelines.growth.grow import grow
from pipelines.growth.protocol import EXACT_BOUND, grow_masked
from pipelines.growth.spec import GrowSpec
from pipelines.megatron.checkpoint import read_config
from pipelines.megatron.definition import gradients_of, logits_of
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

sys.path.insert(0, str(Path(__file__).parent))
import small_models as models

EXPERTS, MODEL = models.EXPERTS, models.MODEL
TOKENS = random_tokens(models.VOCAB_SIZE, MODEL.seq_length, 0)
DEPTHS, WIDTHS = ("stack", "zero_depth", "random_depth"), ("direct_width", "zero_width", "random_width")


def both_axes(**options):
    return load_method("growth", {"name": "both_axes", **options})


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_what_two_operators_preserve_they_preserve_together(depth, width, experts):
    method, tensors = both_axes(depth=depth, width=width), models.trained(experts=experts)
    target, wider = method.target(MODEL), method.target_experts(experts) if experts else None
    assert (target.num_layers, target.hidden_size, target.num_attention_heads) == (4, 32, 8)
    grown = dict(grow_masked(method, MODEL, tensors, 0))
    before, after = (
        logits_of(tensors, MODEL, experts, TOKENS),
        logits_of(grown, target, wider, TOKENS),
    )
    off = deviation(before, after, TOKENS).relative_deviation
    declared = method.preserves(MODEL)
    assert declared.preserved is (depth != "stack")
    assert off < EXACT_BOUND if declared.preserved else off > 1e-3


def test_it_is_the_one_operator_after_the_other():
    method, tensors = both_axes(symmetry_break=0.0), models.trained()
    grown = dict(method.grow(MODEL, tensors, 0))
    wide = load_method("growth", {"name": "direct_width", "growth_factor": 2, "symmetry_break": 0.0})
    deep = load_method("growth", {"name": "stack", "growth_factor": 2})
    expected = dict(deep.grow(wide.target(MODEL), dict(wide.grow(MODEL, tensors, 0)), 0))
    assert list(grown) == list(expected)
    assert all(torch.equal(grown[name], expected[name]) for name in expected)
    pointers = {tensor.data_ptr() for tensor in grown.values()}
    assert len(pointers) == len(grown), "layers made of one share nothing"


def test_gradients_go_through_both_maps():
    method, tensors = both_axes(depth="zero_depth", symmetry_break=0.0), models.trained()
    before = {each.name: each.gradient for each in gradients_of(tensors, MODEL, None, TOKENS)}
    expected = dict(method.grow_moments(MODEL, before, 1, 0))
    grown = dict(method.grow(MODEL, tensors, 0))
    for each in gradients_of(grown, method.target(MODEL), None, TOKENS):
        if ".layers.1." not in each.name and ".layers.3." not in each.name:
            torch.testing.assert_close(each.gradient, expected[each.name], rtol=0, atol=1e-12)


def test_new_units_are_drawn_as_those_of_a_model_as_deep_as_the_grown_one():
    base = MODEL.model_copy(update={"hidden_size": 64, "ffn_hidden_size": 96})
    method = both_axes(depth="random_depth", width="random_width", growth_factor=4)
    grown = dict(method.grow(base, models.weights(base), 0))
    for layer in (0, 1):
        new = grown[f"decoder.layers.{layer}.self_attention.linear_proj.weight"][64:]
        assert float(new.std()) == pytest.approx(base.init_method_std / 4, rel=0.05)


def test_masks_multiply_and_end_together():
    method = both_axes(depth="random_depth", width="random_width", ramp_iters=6)
    raw = dict(method.grow(MODEL, models.trained(), 0))
    masks = method.masks(MODEL, raw, 3, 100)
    own, new = (masks[f"decoder.layers.{layer}.mlp.linear_fc2.weight"].flatten() for layer in (0, 1))
    assert own.tolist() == [1.0] * 16 + [0.5] * 16
    assert new.tolist() == [0.5] * 16 + [0.25] * 16
    assert method.masks(MODEL, raw, 6, 100) == {}
    assert both_axes().masks(MODEL, raw, 0, 100) == {}


@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_a_checkpoint_grown_along_both_axes_is_certified(tmp_path, job, experts):
    base = models.write_base(tmp_path / "base", models.trained(experts=experts), experts)
    spec = GrowSpec(method={"name": "both_axes", "depth": "zero_depth", "width": "zero_width", "width_factor": 1.5})
    with job("grown") as made:
        grow(spec, {"input": base}, made)
    assert made.facts["certificate"]["algebra"]["relative_deviation"] < EXACT_BOUND
    assert made.facts["certificate"]["checkpoint"]["relative_deviation"] < 1e-5
    model = read_config(made.out)["model"]
    assert (model["num_layers"], model["hidden_size"]) == (4, 24)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width_factor": 1.5}, "width_factor must be a whole number for direct_width"),
        ({"width_factor": 0.0}, "width_factor must be at least 1"),
        ({"width_factor": float("inf")}, "width_factor must be at least 1"),
        ({"growth_factor": 0}, "growth_factor must be at least 1"),
        ({"depth": "random_depth", "ramp_iters": -1}, "ramp_iters must be at least 0"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(RetraceError, match=said):
        both_axes(**options)
