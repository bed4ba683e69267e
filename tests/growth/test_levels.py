"""Multi-level training: there and back is the identity, widths are exact, and interpolation keeps its ends."""

import sys
from pathlib import Path

import pytest
import torch

from pipelines.growth.certificate import deviation, random_tokens
from pipelines.growth.level_verbs import coalesce_verb, decoalesce_verb, interpolate_verb
from pipelines.growth.levels import coalesce, coalesced_shape, decoalesce, decoalesced_shape, interpolate
from pipelines.growth.slices import Shape
from pipelines.growth.spec import InterpolateSpec, LevelSpec
from pipelines.megatron.checkpoint import read_config, read_tensors, write_checkpoint
from pipelines.megatron.definition import logits_of
from pipelines.megatron.flops import parameter_shapes
from pipelines.runs.errors import RetraceError

sys.path.insert(0, str(Path(__file__).parent))
import small_models as models

UNTIED = models.MODEL.model_copy(update={"untie_embeddings_and_output_weights": True})
SHAPES = [Shape(models.MODEL), Shape(UNTIED), Shape(models.MODEL, models.EXPERTS), Shape(UNTIED, models.EXPERTS)]
TOKENS = random_tokens(models.VOCAB_SIZE, models.MODEL.seq_length, 0)


def shapes_of(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("depth", "width"), [(2, 1), (1, 2), (2, 2), (1, 4), (3, 1)])
def test_coalescing_a_decoalesced_model_gives_it_back_to_rounding(shape, depth, width):
    tensors, large = models.trained(shape.model, shape.experts, steps=3), decoalesced_shape(shape, depth, width)
    grown = dict(decoalesce(tensors, shape, depth, width))
    assert shapes_of(grown) == parameter_shapes(large.model, models.VOCAB_SIZE, large.experts)
    assert coalesced_shape(large, depth, width) == shape
    back = dict(coalesce(grown, large, depth, width))
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-15, atol=1e-15)
        # Powers of two lose nothing.
        assert depth == 3 or torch.equal(back[name], tensor)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [2, 3])
def test_decoalescing_in_width_alone_changes_nothing_tied_or_not(shape, width):
    tensors, large = models.trained(shape.model, shape.experts), decoalesced_shape(shape, 1, width)
    grown = dict(decoalesce(tensors, shape, 1, width))
    before = logits_of(tensors, shape.model, shape.experts, TOKENS)
    after = logits_of(grown, large.model, large.experts, TOKENS)
    assert deviation(before, after, TOKENS).relative_deviation < 1e-13


def test_a_group_of_layers_becomes_its_mean_and_a_pair_of_units_the_mean_of_rows_and_the_sum_of_columns():
    tensors = models.weights(UNTIED)
    small = dict(coalesce(tensors, Shape(UNTIED), 2, 2))
    name, h, m = "decoder.layers.0.mlp.linear_fc2.weight", 16, 24
    fc2 = (tensors[name] + tensors[name.replace("0", "1", 1)]) / 2
    expected = [
        [sum((fc2[i + a * h // 2, j + b * m // 2]) for a in (0, 1) for b in (0, 1)) / 2 for j in range(m // 2)]
        for i in range(h // 2)
    ]
    torch.testing.assert_close(small[name], torch.tensor(expected, dtype=torch.float64))
    embedding = tensors["embedding.word_embeddings.weight"]
    torch.testing.assert_close(
        small["embedding.word_embeddings.weight"], (embedding[:, : h // 2] + embedding[:, h // 2 :]) / 2
    )


def test_an_interpolation_is_the_one_model_at_zero_and_the_other_at_one():
    before, after = models.weights(seed=1), models.weights(seed=2)
    for coefficient, expected in ((0.0, before), (1.0, after)):
        found = dict(interpolate(before, after, coefficient))
        assert list(found) == list(before)
        assert all(torch.equal(found[name], expected[name]) for name in found)
    quarter = dict(interpolate(before, after, 0.25))
    for name in before:
        torch.testing.assert_close(quarter[name], 0.75 * before[name] + 0.25 * after[name])


def test_what_does_not_fit_is_refused():
    for depth, width, message in ((3, 1, "num_layers is 2, which 3 does not divide"), (1, 4, "num_query_groups is 2")):
        with pytest.raises(RetraceError, match=message):
            coalesced_shape(Shape(models.MODEL), depth, width)
    with pytest.raises(RetraceError, match="which 0 does not divide"):
        coalesced_shape(Shape(models.MODEL), 0, 1)
    with pytest.raises(RetraceError, match="must be at least 1"):
        decoalesced_shape(Shape(models.MODEL), 1, 0)
    before = models.weights()
    for after, coefficient, message in (
        (before, 1.5, "interpolation_coeff must be between 0 and 1"),
        (models.weights(UNTIED), 0.5, "only one of the two models has output_layer.weight"),
        (models.weights(models.MODEL.model_copy(update={"ffn_hidden_size": 12})), 0.5, "give models of one size"),
    ):
        with pytest.raises(RetraceError, match=message):
            list(interpolate(before, after, coefficient))


def checkpoint(folder, tensors, shape, **changes):
    folder.mkdir()
    config = {
        "model": shape.model.model_dump(),
        "experts": shape.experts and shape.experts.model_dump(),
        "moe_method": {"name": "topk"} if shape.experts else None,
        "vocab_size": models.VOCAB_SIZE,
        "tokens_seen": 100,
        **changes,
    }
    write_checkpoint(folder, config, tensors)
    return folder


@pytest.fixture
def run(job):
    """``run(verb, name, spec, **inputs)``: the folder that a job made."""

    def run(verb, name, spec, **inputs):
        with job(name) as made:
            verb(spec, inputs, made)
        return made.out

    return run


@pytest.mark.parametrize("shape", SHAPES)
def test_a_cycle_without_training_between_its_steps_goes_through_the_verbs(tmp_path, run, shape):
    tensors = models.weights(shape.model, shape.experts)
    large = checkpoint(tmp_path / "large", tensors, shape)
    small = run(coalesce_verb, "small", LevelSpec(), input=large)
    back = run(decoalesce_verb, "back", LevelSpec(), input=small)
    assert read_config(back)["model"] == read_config(large)["model"]
    assert read_config(back)["experts"] == read_config(large)["experts"]
    assert read_config(small)["model"]["num_layers"] == 1
    assert read_config(small)["tokens_seen"] == 100
    mixed = read_tensors(run(interpolate_verb, "mixed", InterpolateSpec(), before=large, after=back))
    half = dict(decoalesce(dict(coalesce(tensors, shape, 2, 2)), coalesced_shape(shape, 2, 2), 2, 2))
    for name, tensor in tensors.items():
        torch.testing.assert_close(mixed[name].double(), 0.75 * tensor + 0.25 * half[name], rtol=0, atol=1e-6)


def test_a_large_model_trained_since_it_was_coalesced_is_refused(tmp_path, run):
    shape, tensors = SHAPES[0], models.weights()
    trained_since = checkpoint(tmp_path / "later", tensors, shape, tokens_seen=300)
    after = checkpoint(tmp_path / "after", tensors, shape, tokens_seen=200)
    with pytest.raises(RetraceError, match="has seen 300 tokens and --after counts 200: what"):
        run(interpolate_verb, "leak", InterpolateSpec(), before=trained_since, after=after)
    other = checkpoint(tmp_path / "other", models.weights(UNTIED), SHAPES[1])
    with pytest.raises(RetraceError, match="of two shapes or kinds"):
        run(interpolate_verb, "mixed", InterpolateSpec(), before=other, after=after)


def test_a_hugging_face_llama_goes_down_and_up(tmp_path, run):
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=16, **sizes)).save_pretrained(tmp_path / "hf")
    small = run(coalesce_verb, "small", LevelSpec(), input=tmp_path / "hf")
    wide = run(decoalesce_verb, "wide", LevelSpec(depth=1), input=small)
    low, high = (
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32, local_files_only=True) for each in (small, wide)
    )
    assert (low.config.hidden_size, low.config.num_hidden_layers, high.config.hidden_size) == (8, 1, 16)
    ids = torch.arange(16)[None]
    torch.testing.assert_close(low(ids).logits, high(ids).logits, rtol=1e-5, atol=1e-6)
