"""What a certificate measures: deviation of the function, parameters without gradient, twins."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipelines.growth.certificate import certify, deviation, random_tokens
from pipelines.growth.grow import grow
from pipelines.growth.liveness import liveness, twins
from pipelines.growth.protocol import EXACT_BOUND, Preservation
from pipelines.growth.slices import Shape
from pipelines.growth.spec import GrowSpec
from pipelines.megatron.checkpoint import read_tensors, write_checkpoint
from pipelines.megatron.definition import gradients_of, logits_of, mean_loss
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

sys.path.insert(0, str(Path(__file__).parents[1] / "megatron"))
sys.path.insert(0, str(Path(__file__).parent))
import reference
import small_models as models

EXPERTS, MODEL, VOCAB_SIZE = models.EXPERTS, models.MODEL, models.VOCAB_SIZE
UNTIED = MODEL.model_copy(update={"untie_embeddings_and_output_weights": True})
TOKENS = random_tokens(VOCAB_SIZE, MODEL.seq_length, 0)


@dataclass(frozen=True)
class Widening:
    """A method that maps tensors by a function of tests/growth/models.py."""

    function: object
    shape: object
    declared: Preservation

    def target(self, base):
        return self.shape

    def grow(self, base, tensors, seed):
        yield from self.function(dict(tensors), base).items()

    def preserves(self, base):
        return self.declared


def measured(tensors, model, grown, grown_model):
    before, after = logits_of(tensors, model, None, TOKENS), logits_of(grown, grown_model, None, TOKENS)
    return deviation(before, after, TOKENS).relative_deviation


@pytest.mark.parametrize("experts", [None, EXPERTS])
@pytest.mark.parametrize("model", [MODEL, UNTIED])
def test_the_definition_equals_the_naive_reference_in_logits_and_in_every_gradient(model, experts):
    tensors = {name: tensor.requires_grad_() for name, tensor in models.weights(model, experts).items()}
    expected = reference.logits(tensors, model, TOKENS, experts)
    torch.testing.assert_close(logits_of(tensors, model, experts, TOKENS), expected, rtol=0, atol=1e-12)
    slopes = torch.autograd.grad(
        mean_loss(expected, TOKENS), list(tensors.values()), allow_unused=True, materialize_grads=True
    )
    streamed = {each.name: each.gradient for each in gradients_of(tensors, model, experts, TOKENS)}
    assert streamed.keys() == tensors.keys()
    for name, slope in zip(tensors, slopes, strict=True):
        torch.testing.assert_close(streamed[name], slope, rtol=0, atol=1e-12)


def test_the_definition_computes_what_the_trained_kernels_compute(tmp_path):
    from pipelines.megatron.inference import load_for_inference
    from pipelines.runs.verb import Execution

    tensors = models.trained()
    config = {"model": MODEL.model_dump(), "experts": None, "vocab_size": VOCAB_SIZE}
    write_checkpoint(tmp_path, config, tensors)
    ours = load_for_inference(tmp_path, Execution())(TOKENS)
    torch.testing.assert_close(ours.double(), logits_of(tensors, MODEL, None, TOKENS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [models.weights, models.trained])
def test_an_even_duplication_is_exact_and_a_zero_padding_only_with_scaled_gains_and_epsilon(make):
    tensors, wide = make(UNTIED), models.widened(UNTIED)
    assert measured(tensors, UNTIED, models.duplicated(tensors, UNTIED), wide) < 1e-14
    halved = wide.model_copy(update={"layernorm_epsilon": UNTIED.layernorm_epsilon / 2})
    assert measured(tensors, UNTIED, models.zero_padded(tensors, UNTIED), halved) < 1e-14
    # A wrong epsilon is the mildest mistake, an unscaled gain the released code's.
    epsilon = measured(tensors, UNTIED, models.zero_padded(tensors, UNTIED), wide)
    assert 1e-8 < epsilon < 1e-4
    assert measured(tensors, UNTIED, models.zero_padded(tensors, UNTIED, scale_gains=False), halved) > 0.1


@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_stacking_changes_the_function_by_about_a_third_or_more(experts):
    tensors, method = models.trained(experts=experts), load_method("growth", {"name": "stack", "growth_factor": 2})
    grown = dict(method.grow(MODEL, tensors, 0))
    before, after = (
        logits_of(each, shape, experts, TOKENS) for each, shape in ((tensors, MODEL), (grown, method.target(MODEL)))
    )
    assert 0.1 < deviation(before, after, TOKENS).relative_deviation < 2


def test_the_paper_form_of_zero_padding_leaves_dead_what_the_specification_says():
    tensors, wide = models.weights(UNTIED), models.widened(UNTIED)
    grown = models.zero_padded(tensors, UNTIED)
    found = liveness(gradients_of(grown, wide, None, TOKENS), Shape(UNTIED), Shape(wide))
    alive = {label for label in found.norms if "new" in label and label not in found.dead}
    assert alive == {
        "embedding.word_embeddings[old, new]",
        "self_attention.v[new, old]",
        "self_attention.linear_proj[new, old]",
        "mlp.linear_fc2[new, old]",
    }
    assert found.dead["mlp.gate[new, old]"] == [1, 0]
    assert found.dead["output_layer[old, new]"] == []
    assert {"mlp.gate[new, old]", "self_attention.q[new, old]", "output_layer[old, new]", "input_layernorm[new]"} <= (
        found.dead.keys()
    )
    assert not any("old" in label and "new" not in label for label in found.dead)
    # As released, with new gains of zero: value rows alone.
    released = models.zero_padded(tensors, UNTIED, new_gains=0.0)
    found = liveness(gradients_of(released, wide, None, TOKENS), Shape(UNTIED), Shape(wide))
    assert {label for label in found.norms if "new" in label and label not in found.dead} == {
        "self_attention.v[new, old]"
    }


@pytest.mark.parametrize(("share", "together"), [(0.5, True), (0.3, False)])
def test_twins_of_an_even_split_never_part_and_those_of_an_uneven_split_do(share, together):
    tensors, wide = models.trained(UNTIED), models.widened(UNTIED)
    grown = models.duplicated(tensors, UNTIED, share)
    found = twins(gradients_of(grown, wide, None, TOKENS), Shape(wide)).facts()
    count = {
        "residual": UNTIED.hidden_size,
        "ffn": UNTIED.num_layers * UNTIED.ffn_hidden_size,
        "head": UNTIED.num_layers * UNTIED.num_attention_heads,
    }
    assert found["before"] == count if together else found["before"]["residual"] == count["residual"]
    assert found["after_first_step"] == (count if together else dict.fromkeys(count, 0))
    # And so it is after a step of AdamW.
    after = models.step(grown, wide, tokens=TOKENS)
    columns = after["embedding.word_embeddings.weight"].chunk(2, dim=1)
    assert torch.allclose(*columns, rtol=0, atol=1e-9) is together


def test_no_unit_of_a_random_model_has_a_twin_and_unborn_units_are_none():
    found = twins(gradients_of(models.weights(), MODEL, None, TOKENS), Shape(MODEL))
    assert found.before == {"residual": 0, "ffn": 0, "head": 0}
    wide = models.widened(UNTIED)
    padded = models.zero_padded(models.weights(UNTIED), UNTIED)
    assert twins(gradients_of(padded, wide, None, TOKENS), Shape(wide)).before == found.before


def test_a_method_that_says_it_preserves_the_function_and_does_not_is_refused():
    tensors, wide = models.weights(UNTIED), models.widened(UNTIED)
    exact = Preservation("exact", bound=EXACT_BOUND)

    def run(function):
        grown = {name: tensor.float() for name, tensor in function(tensors, UNTIED).items()}
        return certify(Widening(function, wide, exact), Shape(UNTIED), tensors, Shape(wide), grown, 0)

    right = run(models.duplicated)
    assert right.algebra.relative_deviation < EXACT_BOUND
    assert right.checkpoint.relative_deviation < 1e-6
    with pytest.raises(RetraceError, match=r"\(algebra\) deviate by .*defect of the method"):
        run(models.zero_padded)


def test_a_checkpoint_that_is_not_what_was_grown_is_refused():
    tensors, method = models.weights(), load_method("growth", {"name": "stack", "growth_factor": 1})
    stored = dict(method.grow(MODEL, tensors, 0))
    stored["decoder.layers.1.mlp.linear_fc2.weight"] *= 1.01
    with pytest.raises(RetraceError, match=r"\(checkpoint\) deviate"):
        certify(method, Shape(MODEL), tensors, Shape(MODEL), stored, 0)
    broken = {**tensors, "decoder.final_layernorm.weight": torch.full((16,), torch.nan)}
    with pytest.raises(RetraceError, match="not finite"):
        certify(method, Shape(MODEL), broken, Shape(MODEL), broken, 0)


def test_weights_that_lack_a_layer_or_a_tensor_are_refused():
    tensors = models.weights()
    for missing, message in (
        ("decoder.layers.1.mlp.linear_fc2.weight", "lack decoder.layers.1.mlp.linear_fc2"),
        ("embedding.word_embeddings.weight", "lack embedding"),
    ):
        with pytest.raises(RetraceError, match=message):
            logits_of({name: each for name, each in tensors.items() if name != missing}, MODEL, None, TOKENS)
    without = {name: each for name, each in tensors.items() if ".layers.1." not in name}
    with pytest.raises(RetraceError, match="have 1 layers, the model 2"):
        logits_of(without, MODEL, None, TOKENS)


@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_growing_a_checkpoint_records_its_certificate(tmp_path, job, experts):
    base = models.write_base(tmp_path / "base", models.trained(experts=experts), experts)
    for growth_factor, exact in ((1, True), (2, False)):
        with job(f"grown-{growth_factor}") as grown:
            final = grow(GrowSpec(method={"name": "stack", "growth_factor": growth_factor}), {"input": base}, grown)
        certificate = grown.facts["certificate"]
        assert (certificate["checkpoint"]["max_logit_deviation"] == 0) is exact
        assert (certificate["algebra"]["relative_deviation"] == 0) is exact
        assert final["logit_deviation"] == certificate["checkpoint"]["relative_deviation"]
        assert certificate["dtype"] == "float32"
        assert certificate["liveness"] == {"num_dead_parameters": 0, "dead": {}}
        assert len(read_tensors(grown.out)) > 0


def test_a_checkpoint_with_recurrent_routers_is_grown_without_a_certificate(tmp_path, job, capsys):
    base = models.write_base(tmp_path / "base", models.weights(experts=EXPERTS), EXPERTS, "rmoe")
    with job("grown") as grown:
        grow(GrowSpec(method={"name": "stack", "growth_factor": 2}), {"input": base}, grown)
    assert "certificate" not in grown.facts
    assert "no certificate: routers of method rmoe" in capsys.readouterr().err
