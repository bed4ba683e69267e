"""The factored layer against dense ones, its support, its memory, and the checkpoints it leaves."""

import json

import pytest
import torch

from pipelines.megatron.checkpoint import read_config, read_factors, read_tensors
from pipelines.megatron.spec import ModelSpec
from pipelines.pretrain.memory import linear_shapes, published_bytes
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

METHOD = {"name": "sltrain", "rank": 5, "alpha": 10.0, "density": 0.1}
TOKENS = torch.randint(1, 40, (3, 16), generator=torch.Generator().manual_seed(0))
LABELS = TOKENS.roll(-1, 1)
# The part of every row of a factored matrix of the tiny model: query, key and value by group; gate and up.
PARTS = {
    "linear_qkv": ([0] * 16 + [1] * 8 + [2] * 8) * 2,
    "linear_proj": [0] * 32,
    "linear_fc1": [0] * 48 + [1] * 48,
    "linear_fc2": [0] * 32,
}
# A support changes with this pin when torch's permutations do: then every earlier run is another experiment.
FIRST_PLACES = [2, 7, 20, 42, 43]


def layers(model):
    from pipelines.megatron.factored import factored_layers

    return factored_layers(model)


def randomise(model):
    """Fill every parameter with noise: at their initial values B is zero and hides mistakes."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
    return model


def composed(name, layer):
    """W entry by entry, as the equation has it: sum_k (alpha / r) B A of the row's part, plus S."""
    parts = PARTS[name.rpartition(".")[2]]
    outputs, inputs = layer.shape
    a, b = layer.factor_a, layer.factor_b
    rows = [10.0 / 5 * sum(b[row, k] * a[parts[row], k] for k in range(5)) for row in range(outputs)]
    weight = torch.stack(rows)
    for place, value in zip(layer.sparse_indices.tolist(), layer.sparse_values, strict=True):
        mask = torch.zeros(outputs * inputs, dtype=weight.dtype)
        mask[place] = 1
        weight = weight + value * mask.view(outputs, inputs)
    return weight


def as_dense(model, build):
    """A dense model of the composed weights."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    weights |= {f"{name}.weight": layer.weight.detach() for name, layer in layers(model).items()}
    return build("dense", initial=weights).to(next(model.parameters()).dtype)


def test_the_weight_is_the_equations_for_every_matrix(build):
    model = randomise(build(METHOD).double())
    assert len(layers(model)) == 8
    for name, layer in layers(model).items():
        torch.testing.assert_close(layer.weight, composed(name, layer), rtol=1e-13, atol=1e-13)


def test_loss_and_gradients_are_those_of_the_composed_dense_model_by_the_chain_rule(build):
    model = randomise(build(METHOD).double())
    dense = as_dense(model, build)
    for name, layer in layers(model).items():
        # build_model fills float32 parameters; the comparison is of float64.
        dense.get_parameter(f"{name}.weight").data.copy_(layer.weight.detach())
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight") or name.startswith("embedding"):
            dense.get_parameter(name).data.copy_(parameter.detach())
    losses = [each(TOKENS, labels=LABELS) for each in (model, dense)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for name, layer in layers(model).items():
        gradient = dense.get_parameter(f"{name}.weight").grad
        parts = torch.tensor(PARTS[name.rpartition(".")[2]])
        assert torch.equal(layer.sparse_values.grad, gradient.flatten()[layer.sparse_indices])
        for part, (a, d_a) in enumerate(zip(layer.factor_a, layer.factor_a.grad, strict=True)):
            here = parts == part
            torch.testing.assert_close(d_a, 2 * layer.factor_b[here].T @ gradient[here], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(layer.factor_b.grad[here], 2 * gradient[here] @ a.T, rtol=1e-12, atol=1e-12)
    embedding = "embedding.word_embeddings.weight"
    assert torch.equal(model.get_parameter(embedding).grad, dense.get_parameter(embedding).grad)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_logits_are_those_of_the_composed_dense_model_to_the_bit(build, precision):
    model = randomise(build(METHOD))
    dense = as_dense(model, build)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        assert torch.equal(model(TOKENS), dense(TOKENS))


def test_initial_values_are_the_released_codes(build):
    model = build({**METHOD, "rank": 8})
    for layer in layers(model).values():
        bound = layer.shape[1] ** -0.5
        assert not layer.factor_b.any()
        for uniform in (layer.factor_a, layer.sparse_values):
            assert 0.9 * bound < uniform.abs().max() <= bound
            assert abs(uniform.mean()) < 0.2 * bound
    first, second = list(layers(model).values())[:2]
    assert not torch.equal(first.sparse_values[:50], second.sparse_values[:50])


def test_the_support_has_its_part_of_every_matrix_and_depends_on_seed_and_name_alone(build):
    from .conftest import MODEL

    model = build(METHOD, seed=4)
    supports = {name: layer.sparse_indices for name, layer in layers(model).items()}
    for name, support in supports.items():
        outputs, inputs = layers(model)[name].shape
        assert torch.equal(support, support.unique())
        assert 0 <= support[0] <= support[-1] < outputs * inputs
        parts = torch.tensor(PARTS[name.rpartition(".")[2]])
        counts = parts[support // inputs].bincount()
        assert counts.tolist() == [int(0.1 * inputs * n) for n in parts.bincount().tolist()]
    assert sum(map(len, supports.values())) == sum(int(0.1 * o * i) for o, i in linear_shapes(MODEL))
    assert supports["decoder.layers.0.self_attention.linear_proj"][:5].tolist() == FIRST_PLACES
    again, other = layers(build(METHOD, seed=4)), layers(build(METHOD, seed=5))
    assert all(torch.equal(again[name].sparse_indices, support) for name, support in supports.items())
    assert not any(torch.equal(other[name].sparse_indices, support) for name, support in supports.items())
    ranked = layers(build({**METHOD, "rank": 3}, seed=4))
    assert all(torch.equal(ranked[name].sparse_indices, support) for name, support in supports.items())


def test_without_a_sparse_part_and_with_low_ranks_values_it_is_low_rank_to_the_bit(build):
    low_rank = build({"name": "low_rank", "rank": 5})
    weights = {name: p.detach().clone() for name, p in low_rank.named_parameters()}
    bare = build({"name": "sltrain", "rank": 5, "alpha": 5.0, "density": 0.0}, initial=weights)
    for model in (low_rank, bare):
        model(TOKENS, labels=LABELS).backward()
    gradients = dict(low_rank.named_parameters())
    assert {name for name, _ in bare.named_parameters()} == set(gradients)
    assert all(torch.equal(p.grad, gradients[name].grad) for name, p in bare.named_parameters())


def test_low_ranks_initial_weights_have_the_size_of_dense_ones(build):
    dense = dict(build("dense").named_parameters())
    for name, layer in layers(build({"name": "low_rank", "rank": 16})).items():
        assert layer.weight.std().item() == pytest.approx(dense[f"{name}.weight"].std().item(), rel=0.1)


def test_the_support_stays_through_training_and_every_run_of_a_seed_is_the_same_to_the_bit(trained):
    start, end, again = (trained(n, METHOD, train_iters=i) for n, i in (("start", 1), ("end", 8), ("again", 8)))
    before, after = read_factors(start.out), read_factors(end.out)
    supports = [name for name in after if name.endswith("sparse_indices")]
    assert len(supports) == 8
    assert all(after[name].dtype == torch.int64 and torch.equal(before[name], after[name]) for name in supports)
    assert all(torch.equal(after[name], tensor) for name, tensor in read_factors(again.out).items())
    assert [p.read_bytes() for p in sorted(again.out.iterdir())] == [p.read_bytes() for p in sorted(end.out.iterdir())]


def test_the_checkpoint_is_dense_says_how_it_was_trained_and_keeps_the_factors(trained, build):
    run = trained("run", METHOD, seed=2)
    assert read_config(run.out)["pretrain_method"] == METHOD
    weights, factors = read_tensors(run.out), read_factors(run.out)
    model = build("dense", initial=weights)
    assert set(weights) == {name for name, _ in model.named_parameters()}
    for name in (name.removesuffix(".factor_b") for name in factors if name.endswith("factor_b")):
        layer = layers(build(METHOD))[name]
        with torch.no_grad():
            layer.factor_a.copy_(factors[f"{name}.factor_a"])
            layer.factor_b.copy_(factors[f"{name}.factor_b"])
            layer.sparse_values.copy_(factors[f"{name}.sparse_values"])
            layer.sparse_indices.copy_(factors[f"{name}.sparse_indices"])
        assert torch.equal(layer.weight, weights[f"{name}.weight"])
    dense = trained("dense", {"name": "dense"})
    with pytest.raises(RetraceError, match="was trained in dense weights"):
        read_factors(dense.out)


def test_the_export_to_hugging_face_has_the_trained_models_logits(trained, tmp_path):
    from transformers import LlamaForCausalLM

    from pipelines.megatron.export import save_shards
    from pipelines.megatron.huggingface import huggingface_config, to_huggingface
    from pipelines.pretrain.loading import load_as_trained

    run = trained("run", METHOD, precision="fp32")
    config = read_config(run.out)
    spec = ModelSpec.model_validate(config["model"])
    folder = tmp_path / "hf"
    folder.mkdir()
    save_shards(folder, to_huggingface(read_tensors(run.out, "numpy"), spec))
    theirs_config = huggingface_config(spec, None, config["vocab_size"], 0)
    (folder / "config.json").write_text(json.dumps(theirs_config), encoding="utf-8")
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    with torch.no_grad():
        ours, exported = load_as_trained(run.out)(TOKENS), theirs(TOKENS).logits
    assert ours.std() > 0.1
    torch.testing.assert_close(exported, ours, rtol=0, atol=1e-5)


def test_a_model_trained_in_factors_is_grown_as_the_dense_model_it_is(trained, tmp_path):
    from contextlib import closing

    from pipelines.growth.grow import grow
    from pipelines.growth.spec import GrowSpec
    from pipelines.pretrain.loading import load_as_trained
    from pipelines.runs.job import Job
    from pipelines.runs.verb import Execution

    run, out = trained("run", METHOD), tmp_path / "grown"
    out.mkdir()
    with closing(Job(out, "grown", Execution())) as job:
        grow(GrowSpec(method={"name": "stack", "growth_factor": 2}), {"input": run.out}, job)
    base, grown = read_tensors(run.out), read_tensors(out)
    assert torch.equal(grown["decoder.layers.3.mlp.linear_fc2.weight"], base["decoder.layers.1.mlp.linear_fc2.weight"])
    assert read_config(out)["pretrain_method"] is None
    assert not layers(load_as_trained(out))


def test_moments_of_factors_are_not_offered_to_growth(trained):
    with pytest.raises(RetraceError, match=r"training.save_optim: moments of factors .* choose method dense"):
        trained("run", METHOD, save_optim=True)


# A billion bytes, read by eye off the axis of figure 1 (andyjm3/SLTrain, figures/sltrain_result_all.png).
@pytest.mark.parametrize(
    ("method", "gigabytes"),
    [({"name": "dense"}, 8.0), ({"name": "low_rank", "rank": 512}, 3.7), ({"name": "sltrain", "rank": 512}, 4.1)],
)
def test_the_papers_memory_of_its_1b_model_follows_from_the_shape(method, gigabytes):
    shape = {"num_layers": 24, "hidden_size": 2048, "ffn_hidden_size": 5461, "num_attention_heads": 32}
    spec = ModelSpec(**shape, num_query_groups=32, seq_length=256, untie_embeddings_and_output_weights=True)
    loaded = load_method("pretrain", method)
    counted = published_bytes(loaded.num_parameters(spec, 32000), loaded.num_indices(spec))
    assert counted / 1e9 == pytest.approx(gigabytes, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 17}, "method.rank 17 exceeds 16, the smaller size of a matrix in self_attention.linear_qkv"),
        ({"density": 1.5}, "method.density is 1.5"),
    ],
)
def test_hyper_parameters_that_fit_no_matrix_are_refused(build, change, message):
    with pytest.raises(RetraceError, match=message):
        build({**METHOD, **change})
