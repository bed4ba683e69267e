"""Masked units: the base's function while the mask is 0, the unmasked model after the ramp, kinds of units in turn."""

import sys
from pathlib import Path

import pytest
import torch

from pipelines.growth.certificate import deviation, random_tokens
from pipelines.growth.grow import grow
from pipelines.growth.protocol import EXACT_BOUND, grow_masked
from pipelines.growth.spec import GrowSpec
from pipelines.megatron.checkpoint import read_tensors
from pipelines.megatron.definition import gradients_of, logits_of
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

sys.path.insert(0, str(Path(__file__).parent))
import small_models as models

EXPERTS, MODEL = models.EXPERTS, models.MODEL
UNTIED = MODEL.model_copy(update={"untie_embeddings_and_output_weights": True})
TOKENS = random_tokens(models.VOCAB_SIZE, MODEL.seq_length, 0)
QKV = "decoder.layers.0.self_attention.linear_qkv.weight"
PROJ = "decoder.layers.1.self_attention.linear_proj.weight"
FC1 = "decoder.layers.0.mlp.linear_fc1.weight"
EMBEDDING = "embedding.word_embeddings.weight"


def random_width(**options):
    return load_method("growth", {"name": "random_width", **options})


@pytest.mark.parametrize("make", [models.weights, models.trained])
@pytest.mark.parametrize("experts", [None, EXPERTS])
@pytest.mark.parametrize("model", [MODEL, UNTIED])
@pytest.mark.parametrize("options", [{}, {"ramp": "together"}, {"growth_factor": 1.5, "new_gain": 0.3}])
def test_at_growth_the_function_is_exactly_the_bases_and_unmasked_it_is_not(make, experts, model, options):
    method, tensors = random_width(**options), make(model, experts)
    wide, wider = method.target(model), method.target_experts(experts) if experts else None
    before = logits_of(tensors, model, experts, TOKENS)
    masked = logits_of(dict(grow_masked(method, model, tensors, 0)), wide, wider, TOKENS)
    assert deviation(before, masked, TOKENS).relative_deviation < EXACT_BOUND
    unmasked = logits_of(dict(method.grow(model, tensors, 0)), wide, wider, TOKENS)
    assert deviation(before, unmasked, TOKENS).relative_deviation > 1e-3


def test_units_are_let_in_kind_by_kind_and_the_mask_then_is_gone():
    method = random_width(ramp_iters=6)
    raw = dict(method.grow(MODEL, models.trained(), 0))

    def shares(iteration, method=method):
        masks = method.masks(MODEL, raw, iteration, 100)
        for mask in masks.values():
            assert mask.max() == 1
        # Of new feed-forward units, dimensions and heads.
        return [float(masks[name].min()) if name in masks else 1.0 for name in (FC1, PROJ, QKV)]

    assert [shares(i) for i in (0, 1, 2, 3, 4, 5)] == [
        [0, 0, 0],
        [0.5, 0, 0],
        [1, 0, 0],
        [1, 0.5, 0],
        [1, 1, 0],
        [1, 1, 0.5],
    ]
    assert method.masks(MODEL, raw, 6, 100) == {}
    assert shares(3, random_width(ramp="together", ramp_iters=6)) == [0.5, 0.5, 0.5]
    # By default the ramp takes a tenth of the training.
    assert random_width().masks(MODEL, raw, 9, 100) != {}
    assert random_width().masks(MODEL, raw, 10, 100) == {}
    assert random_width(ramp_iters=0).preserves(MODEL).kind == "none"


def test_the_mask_is_on_what_new_units_put_out_and_nowhere_else():
    method = random_width(ramp_iters=6)
    raw = dict(method.grow(UNTIED, models.trained(UNTIED), 0))
    masks = method.masks(UNTIED, raw, 0, 100)
    assert not any("norm" in name or name.startswith("output_layer") for name in masks)
    # Gate and up: 24 old and 24 new rows each.
    assert masks[FC1].flatten().tolist() == ([1.0] * 24 + [0.0] * 24) * 2
    assert masks[PROJ].flatten().tolist() == [1.0] * 16 + [0.0] * 16
    # Two old and two new groups of two queries, a key and a value, 4 rows each.
    assert masks[QKV].flatten().tolist() == [1.0] * 32 + [0.0] * 32
    assert (raw[EMBEDDING] * masks[EMBEDDING])[:, 16:].abs().max() == 0
    assert raw[EMBEDDING][:, 16:].abs().max() > 0


def test_new_weights_are_drawn_as_in_a_model_trained_from_scratch():
    base = MODEL.model_copy(update={"hidden_size": 64, "ffn_hidden_size": 96})
    grown = dict(random_width().grow(base, models.weights(base), 0))
    new = grown[PROJ][64:]
    assert float(new.std()) == pytest.approx(base.init_method_std / 2, rel=0.05)
    assert float(grown[FC1][96:192].std()) == pytest.approx(base.init_method_std, rel=0.05)


def test_gradients_of_old_parameters_at_growth_are_the_bases():
    method, tensors = random_width(), models.trained()
    before = {each.name: each.gradient for each in gradients_of(tensors, MODEL, None, TOKENS)}
    expected = dict(method.grow_moments(MODEL, before, 1, 0))
    grown = dict(grow_masked(method, MODEL, tensors, 0))
    for each in gradients_of(grown, method.target(MODEL), None, TOKENS):
        old = before[each.name].shape
        for ours, theirs in zip(
            each.gradient.chunk(2) if "fc1" in each.name else [each.gradient],
            expected[each.name].chunk(2) if "fc1" in each.name else [expected[each.name]],
            strict=True,
        ):
            part = tuple(slice(size // (2 if "fc1" in each.name and axis == 0 else 1)) for axis, size in enumerate(old))
            torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=1e-12)


@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_a_checkpoint_is_certified_as_it_is_at_growth(tmp_path, job, experts):
    base = models.write_base(tmp_path / "base", models.trained(experts=experts), experts)
    with job("grown") as grown:
        grow(GrowSpec(method={"name": "random_width"}), {"input": base}, grown)
    certificate = grown.facts["certificate"]
    assert certificate["algebra"]["relative_deviation"] < EXACT_BOUND
    assert certificate["checkpoint"]["relative_deviation"] < 1e-5
    assert read_tensors(grown.out)[EMBEDDING][:, 16:].abs().max() == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"growth_factor": 0.5}, "growth_factor must be at least 1"),
        ({"ramp_iters": -1}, "ramp_iters must be at least 0"),
        ({"ramp": "at_once"}, "ramp"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(RetraceError, match=said):
        random_width(**options)
