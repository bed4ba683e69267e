"""Repetition in width: exact in float64, whole heads in their groups, and twins that part only where shares differ."""

import sys
from pathlib import Path

import pytest
import torch

from pipelines.growth.certificate import deviation, random_tokens
from pipelines.growth.grow import grow
from pipelines.growth.liveness import liveness, twins
from pipelines.growth.protocol import EXACT_BOUND
from pipelines.growth.slices import Shape
from pipelines.growth.spec import GrowSpec
from pipelines.megatron.checkpoint import read_tensors
from pipelines.megatron.definition import gradients_of, logits_of
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

sys.path.insert(0, str(Path(__file__).parent))
import small_models as models

EXPERTS, MODEL, VOCAB_SIZE = models.EXPERTS, models.MODEL, models.VOCAB_SIZE
UNTIED = MODEL.model_copy(update={"untie_embeddings_and_output_weights": True})
MULTI_HEAD = MODEL.model_copy(update={"num_query_groups": 4})
MULTI_QUERY = MODEL.model_copy(update={"num_query_groups": 1})
TOKENS = random_tokens(VOCAB_SIZE, MODEL.seq_length, 0)


def direct_width(**options):
    return load_method("growth", {"name": "direct_width", **options})


def relative_deviation(method, model, experts, tensors):
    grown = dict(method.grow(model, tensors, 0))
    wide = method.target_experts(experts) if experts else None
    before, after = logits_of(tensors, model, experts, TOKENS), logits_of(grown, method.target(model), wide, TOKENS)
    return deviation(before, after, TOKENS).relative_deviation


@pytest.mark.parametrize("make", [models.weights, models.trained])
@pytest.mark.parametrize("experts", [None, EXPERTS])
@pytest.mark.parametrize("model", [MODEL, UNTIED, MULTI_HEAD, MULTI_QUERY])
@pytest.mark.parametrize("options", [{"symmetry_break": 0.0}, {"growth_factor": 3}, {"heads": "queries"}])
def test_the_function_is_exactly_the_bases(make, experts, model, options):
    assert relative_deviation(direct_width(**options), model, experts, make(model, experts)) < EXACT_BOUND


def test_copies_of_queries_at_the_end_would_read_the_wrong_keys():
    tensors, method = models.trained(), direct_width(heads="queries", symmetry_break=0.0)
    grown = dict(method.grow(MODEL, tensors, 0))
    wide = method.target(MODEL)
    assert (wide.num_attention_heads, wide.num_query_groups) == (8, 2)
    name = "decoder.layers.0.self_attention.linear_qkv.weight"
    by_group = grown[name].view(2, 6, 4, -1)
    base_queries = tensors[name].view(2, 4, 4, -1)[:, :2]
    # In each group: its two queries, and again its two queries.
    assert torch.equal(by_group[:, :4, :, :16] * 2, torch.cat([base_queries, base_queries], dim=1))
    tiled = torch.cat([*by_group[:, :2].unbind(0), *by_group[:, :2].unbind(0)]).view(2, 4, 4, -1)
    grown[name] = torch.cat([tiled, by_group[:, 4:]], dim=1).reshape(grown[name].shape)
    before, after = logits_of(tensors, MODEL, None, TOKENS), logits_of(grown, wide, None, TOKENS)
    assert deviation(before, after, TOKENS).relative_deviation > 1e-3


def test_shares_add_up_to_the_base_and_old_units_come_first():
    tensors, method = models.weights(UNTIED), direct_width(growth_factor=3)
    grown = dict(method.grow(UNTIED, tensors, 0))
    for name in ("decoder.layers.1.mlp.linear_fc2.weight", "output_layer.weight"):
        rows = grown[name][: len(tensors[name])]
        torch.testing.assert_close(sum(rows.chunk(3, dim=1)), tensors[name], rtol=1e-12, atol=1e-14)
    norm = "decoder.layers.0.input_layernorm.weight"
    assert torch.equal(grown[norm][:16], tensors[norm])
    embedding = "embedding.word_embeddings.weight"
    assert torch.equal(grown[embedding][:, :16], tensors[embedding])
    assert [name for name, _ in method.grow(UNTIED, tensors, 0)] == list(tensors)


@pytest.mark.parametrize(("symmetry_break", "together"), [(0.0, True), (0.1, False)])
@pytest.mark.parametrize("model", [MODEL, UNTIED])
def test_equal_shares_leave_twins_that_never_part_and_uneven_ones_leave_none(model, symmetry_break, together):
    method = direct_width(symmetry_break=symmetry_break)
    wide = method.target(model)
    grown = dict(method.grow(model, models.trained(model), 0))
    found = twins(gradients_of(grown, wide, None, TOKENS), Shape(wide)).facts()
    units = {
        "residual": model.hidden_size,
        "ffn": model.num_layers * model.ffn_hidden_size,
        "head": model.num_layers * model.num_attention_heads,
    }
    assert found["before"]["residual"] == units["residual"]
    assert found["after_first_step"] == (units if together else dict.fromkeys(units, 0))
    assert not liveness(gradients_of(grown, wide, None, TOKENS), Shape(model), Shape(wide)).num_dead_parameters


@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_a_widened_checkpoint_is_certified_after_it_was_read_back(tmp_path, job, experts):
    base = models.write_base(tmp_path / "base", models.trained(experts=experts), experts)
    with job("grown") as grown:
        grow(GrowSpec(method={"name": "direct_width", "growth_factor": 2}), {"input": base}, grown)
    certificate = grown.facts["certificate"]
    assert certificate["algebra"]["relative_deviation"] < EXACT_BOUND
    assert certificate["checkpoint"]["relative_deviation"] < 1e-5
    assert certificate["twins"]["after_first_step"] == {"residual": 0, "ffn": 0, "head": 0}
    assert certificate["liveness"]["num_dead_parameters"] == 0
    assert read_tensors(grown.out)["embedding.word_embeddings.weight"].shape == (VOCAB_SIZE, 32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"growth_factor": 0}, "growth_factor must be at least 1"),
        ({"symmetry_break": -0.1}, "symmetry_break must be a number from 0 on"),
        ({"heads": "tiles"}, "heads"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(RetraceError, match=said):
        direct_width(**options)


def test_a_parameter_that_nothing_is_known_of_is_refused_by_name():
    tensors = {**models.weights(), "decoder.layers.0.mlp.router.recurrent.weight": torch.zeros(4, 4)}
    with pytest.raises(RetraceError, match=r"router\.recurrent\.weight: nothing is known of how to widen it"):
        dict(direct_width().grow(MODEL, tensors, 0))


def zero_width(**options):
    return load_method("growth", {"name": "zero_width", **options})


@pytest.mark.parametrize("make", [models.weights, models.trained])
@pytest.mark.parametrize("experts", [None, EXPERTS])
@pytest.mark.parametrize("model", [MODEL, UNTIED, MULTI_HEAD])
@pytest.mark.parametrize("options", [{}, {"zeroed": "columns"}, {"growth_factor": 1.5, "new_gain": 0.3}])
def test_zero_padding_is_exact_with_scaled_gains_and_epsilon(make, experts, model, options):
    method, tensors = zero_width(**options), make(model, experts)
    assert relative_deviation(method, model, experts, tensors) < EXACT_BOUND
    grown, wide = dict(method.grow(model, tensors, 0)), method.target(model)
    unscaled = wide.model_copy(update={"layernorm_epsilon": model.layernorm_epsilon})
    wider = method.target_experts(experts) if experts else None
    before = logits_of(tensors, model, experts, TOKENS)
    off = deviation(before, logits_of(grown, unscaled, wider, TOKENS), TOKENS).relative_deviation
    assert 1e-9 < off < 1e-3, "the epsilon matters, if little"


def test_new_units_that_get_a_gradient_at_growth_are_those_of_the_specification():
    tensors = models.weights(UNTIED)
    alive = {}
    for zeroed in ("rows", "columns"):
        method = zero_width(zeroed=zeroed)
        wide = method.target(UNTIED)
        grown = dict(method.grow(UNTIED, tensors, 0))
        found = liveness(gradients_of(grown, wide, None, TOKENS), Shape(UNTIED), Shape(wide))
        assert not any("old" in label and "new" not in label for label in found.dead)
        alive[zeroed] = {label for label in found.norms if "new" in label and label not in found.dead}
    assert alive["rows"] == {
        "embedding.word_embeddings[old, new]",
        "self_attention.v[new, old]",
        "self_attention.linear_proj[new, old]",
        "mlp.linear_fc2[new, old]",
    }
    assert {"mlp.linear_fc2[old, new]", "self_attention.linear_proj[old, new]"} <= alive["columns"]


def test_zero_padding_draws_by_name_and_seed_and_refuses_parts_of_heads():
    method, tensors = zero_width(), models.weights()
    first, again, other = (dict(method.grow(MODEL, tensors, seed)) for seed in (0, 0, 1))
    name = "decoder.layers.0.mlp.linear_fc2.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert torch.equal(first[name][:16, :24], tensors[name])
    with pytest.raises(RetraceError, match=r"num_query_groups 2 by a factor of 1\.25 gives no whole number"):
        zero_width(growth_factor=1.25).target(MODEL)
    with pytest.raises(RetraceError, match="growth_factor must be at least 1"):
        zero_width(growth_factor=0.5)
