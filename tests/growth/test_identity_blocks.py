"""New layers that change nothing at growth: zeroed copies and masked random ones; and noise on stacked ones."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pipelines.growth.certificate import certify, deviation, random_tokens
from pipelines.growth.liveness import liveness
from pipelines.growth.protocol import grow_masked
from pipelines.growth.slices import Shape
from pipelines.growth.spec import GrowthSpec
from pipelines.growth.training import train
from pipelines.megatron.definition import gradients_of, logits_of
from pipelines.megatron.spec import TrainingSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import METRICS
from pipelines.runs.methods import load_method

sys.path.insert(0, str(Path(__file__).parent))
import small_models as models

EXPERTS, MODEL = models.EXPERTS, models.MODEL
TOKENS = random_tokens(models.VOCAB_SIZE, MODEL.seq_length, 0)
GAINS = {"input_layernorm", "pre_mlp_layernorm"}
MATRICES = {"self_attention.q", "self_attention.k", "self_attention.v", "mlp.gate", "mlp.up"}
OUTPUTS = {"self_attention.linear_proj", "mlp.linear_fc2"}


def zero_depth(**options):
    return load_method("growth", {"name": "zero_depth", "growth_factor": 2, **options})


def random_depth(**options):
    return load_method("growth", {"name": "random_depth", "growth_factor": 2, **options})


@pytest.mark.parametrize("make", [models.weights, models.trained])
@pytest.mark.parametrize("experts", [None, EXPERTS])
@pytest.mark.parametrize(
    "method",
    [
        zero_depth(),
        zero_depth(zeroed="gains"),
        zero_depth(stacking_list=[0, 1, 0, 1]),
        zero_depth(stacking_list=[0, 0, 0, 1, 0]),
        random_depth(),
        random_depth(stacking_list=[0, 1, 1, 1]),
    ],
)
def test_an_identity_block_changes_no_bit_of_the_logits_wherever_it_stands(method, experts, make):
    tensors = make(experts=experts)
    grown = Shape(method.target(MODEL), experts)
    stored = {name: tensor.float() for name, tensor in grow_masked(method, MODEL, tensors, 0)}
    certificate = certify(method, Shape(MODEL, experts), tensors, grown, stored, 0)
    for each in (certificate.algebra, certificate.checkpoint):
        assert each.max_logit_deviation == each.relative_deviation == each.loss_difference == 0


@pytest.mark.parametrize(("zeroed", "alive"), [("output_projections", OUTPUTS), ("gains", {"input_layernorm"})])
def test_the_first_step_reaches_of_an_identity_block_what_the_specification_says(zeroed, alive):
    method, tensors = zero_depth(zeroed=zeroed), models.trained()
    grown = dict(method.grow(MODEL, tensors, 0))
    target = method.target(MODEL)
    found = liveness(gradients_of(grown, target, None, TOKENS), Shape(MODEL), Shape(target))
    assert found.dead == {block: [3, 1] for block in (GAINS | MATRICES | OUTPUTS) - alive}
    if zeroed == "output_projections":
        # The second step reaches the rest.
        after = models.step(grown, target)
        assert liveness(gradients_of(after, target, None, TOKENS), Shape(MODEL), Shape(target)).dead == {}


def test_zeroed_copies_are_the_layers_they_copy_but_for_what_is_zeroed():
    tensors = models.weights()
    grown = dict(zero_depth().grow(MODEL, tensors, 0))
    for layer, (source, is_copy) in enumerate([(0, False), (0, True), (1, False), (1, True)]):
        for name in (each for each in tensors if f".layers.{source}." in each):
            ours = grown[name.replace(f".{source}.", f".{layer}.", 1)]
            zeroed = is_copy and name.endswith(("linear_proj.weight", "linear_fc2.weight"))
            assert torch.equal(ours, torch.zeros_like(ours) if zeroed else tensors[name])


def test_moments_of_the_bases_own_layers_are_kept_and_of_new_ones_zero():
    moments = models.weights()
    for method in (zero_depth(), random_depth()):
        grown = dict(method.grow_moments(MODEL, moments, 2, 0))
        for own, source in ((0, 0), (2, 1)):
            name = "mlp.linear_fc2.weight"
            assert torch.equal(grown[f"decoder.layers.{own}.{name}"], moments[f"decoder.layers.{source}.{name}"])
            assert not grown[f"decoder.layers.{own + 1}.{name}"].any()


def test_gradients_of_the_bases_own_layers_are_the_bases():
    method, tensors = zero_depth(), models.trained()
    before = {each.name: each.gradient for each in gradients_of(tensors, MODEL, None, TOKENS)}
    expected = dict(method.grow_moments(MODEL, before, 1, 0))
    grown = dict(method.grow(MODEL, tensors, 0))
    for each in gradients_of(grown, method.target(MODEL), None, TOKENS):
        if ".layers.1." not in each.name and ".layers.3." not in each.name:
            torch.testing.assert_close(each.gradient, expected[each.name], rtol=0, atol=1e-12)


def test_random_blocks_are_drawn_as_those_of_a_model_trained_from_scratch():
    from pipelines.megatron import backend
    from pipelines.megatron.model import build_model
    from pipelines.runs.verb import Execution

    backend.initialize(Execution(), None)
    method, tensors = random_depth(), models.weights()
    grown = dict(method.grow(MODEL, tensors, 5))
    scratch = dict(build_model(method.target(MODEL), models.VOCAB_SIZE, seed=5).named_parameters())
    base = dict(build_model(MODEL, models.VOCAB_SIZE, seed=5).named_parameters())
    for name, tensor in grown.items():
        if ".layers.1." in name or ".layers.3." in name:
            assert float(tensor.std()) == pytest.approx(float(scratch[name].detach().std()), rel=0.25, abs=1e-9), name
            if "norm" not in name:
                # A base of the same seed started with these: a layer of its own beginnings would be no new one.
                assert not torch.allclose(tensor.float(), scratch[name].detach(), rtol=0.5)
                assert not torch.allclose(tensor.float(), base[name.replace(".3.", ".1.")].detach(), rtol=0.5)
    backend.shutdown()


def test_the_mask_goes_from_the_bases_function_to_the_unmasked_model_and_is_then_gone():
    method, tensors = random_depth(ramp_iters=4), models.trained()
    raw = dict(method.grow(MODEL, tensors, 0))
    before, after = logits_of(tensors, MODEL, None, TOKENS), logits_of(raw, method.target(MODEL), None, TOKENS)
    distances = []
    for iteration in range(6):
        masks = method.masks(MODEL, raw, iteration, 100)
        assert set(masks.values()) <= {iteration / 4}
        effective = {name: tensor * masks.get(name, 1.0) for name, tensor in raw.items()}
        logits = logits_of(effective, method.target(MODEL), None, TOKENS)
        distances.append(deviation(before, logits, TOKENS).relative_deviation)
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[1] > 0
    assert masks == {}
    assert torch.equal(logits, after)
    # By default the ramp takes a tenth of the training.
    assert random_depth().masks(MODEL, raw, 9, 100) != {}
    assert random_depth().masks(MODEL, raw, 10, 100) == {}
    assert random_depth(ramp_iters=0).preserves(MODEL).kind == "none"


def test_masked_parameters_come_back_to_the_bit_and_their_gradients_follow_the_chain_rule(monkeypatch):
    from pipelines.megatron import masks

    linear = torch.nn.Linear(3, 2, bias=False).requires_grad_()
    linear.weight.main_grad = torch.zeros(2, 3)
    factor = torch.tensor([[1.0], [0.25]])
    raw, x = linear.weight.detach().clone(), torch.randn(5, 3)
    model = type("Model", (), {"named_parameters": linear.named_parameters})

    monkeypatch.setattr(masks, "global_names", lambda model: {"weight": "global"})
    with masks.masked(model, lambda names, iteration, train_iters: {"global": factor}, 0, 1):
        loss = linear(x).square().sum()
        linear.weight.main_grad += torch.autograd.grad(loss, linear.weight)[0]
    free = raw.clone().requires_grad_()
    (expected,) = torch.autograd.grad((x @ (factor * free).T).square().sum(), free)
    torch.testing.assert_close(linear.weight.main_grad, expected)
    assert torch.equal(linear.weight, raw)


TRAINING = TrainingSpec(
    train_iters=12, global_batch_size=4, lr=5e-3, lr_warmup_iters=2, weight_decay=0.0, precision="fp32", log_interval=1
)


@pytest.fixture(scope="module")
def base(tokens, tmp_path_factory):
    from pipelines.megatron.training import train as train_dense
    from pipelines.runs.job import Job
    from pipelines.runs.verb import Execution

    job = Job(tmp_path_factory.mktemp("base"), "base of identity blocks", Execution())
    train_dense(MODEL, None, TRAINING.model_copy(update={"train_iters": 6}), 0, tokens, job)
    job.close()
    return job.out


def run(method, base, tokens, job, name):
    spec = GrowthSpec(method=method, model=MODEL.model_copy(update={"num_layers": 4}), training=TRAINING)
    with job(name) as made:
        train(spec, {"tokens": tokens, "base": base}, made)
    return [json.loads(line) for line in (made.out / METRICS).read_text().splitlines()], made


def test_models_grown_by_identity_blocks_start_at_the_bases_loss_and_a_stacked_one_above(base, tokens, job):
    first = {}
    for name in ("zero_depth", "random_depth", "stack"):
        lines, _ = run({"name": name, "growth_factor": 2}, base, tokens, job, name)
        first[name] = lines[0]["loss"]
    assert first["zero_depth"] == pytest.approx(first["random_depth"], abs=1e-5)
    assert abs(first["stack"] - first["zero_depth"]) > 1e-3


def test_the_checkpoint_after_the_ramp_is_the_unmasked_model(base, tokens, job):
    from pipelines.megatron.checkpoint import read_config, read_tensors
    from pipelines.megatron.inference import load_for_inference
    from pipelines.runs.verb import Execution

    lines, made = run({"name": "random_depth", "growth_factor": 2, "ramp_iters": 3}, base, tokens, job, "ramp")
    ids = torch.arange(16)[None] % models.VOCAB_SIZE
    logits = load_for_inference(made.out, Execution())(ids)
    spec = MODEL.model_copy(update={"num_layers": 4})
    assert read_config(made.out)["model"] == spec.model_dump()
    torch.testing.assert_close(logits, logits_of(read_tensors(made.out), spec, None, ids).float(), rtol=0, atol=1e-4)
    assert made.facts["inserted_layers"] == [1, 3]
    assert lines[-1]["val_loss"] > 0


def test_a_ramp_longer_than_the_training_is_refused(base, tokens, job):
    with pytest.raises(RetraceError, match=r"would still be masked: make method\.ramp_iters smaller"):
        run({"name": "random_depth", "growth_factor": 2, "ramp_iters": 500}, base, tokens, job, "long")


def test_noise_is_of_the_papers_variance_and_a_share_of_zero_is_no_noise():
    model = MODEL.model_copy(update={"hidden_size": 128, "ffn_hidden_size": 256})
    tensors = models.weights(model)
    stacked = dict(load_method("growth", {"name": "stack", "growth_factor": 2}).grow(model, tensors, 0))

    def noisy(share):
        return dict(
            load_method("growth", {"name": "stack", "growth_factor": 2, "noise_coeff": share}).grow(model, tensors, 0)
        )

    assert all(torch.equal(stacked[name], each) for name, each in noisy(0.0).items())
    noise, mixed = noisy(1.0), noisy(0.25)
    fc1, proj = "decoder.layers.3.mlp.linear_fc1.weight", "decoder.layers.3.self_attention.linear_proj.weight"
    assert float(noise[fc1].var()) == pytest.approx(2 / (5 * 128), rel=0.05)
    assert float(noise[proj].var()) == pytest.approx(1 / (128 * 16), rel=0.05)
    torch.testing.assert_close(mixed[fc1], 0.75 * stacked[fc1] + 0.25 * noise[fc1])
    for name, tensor in noise.items():
        if tensor.dim() == 1 or ".layers." not in name:
            assert torch.equal(tensor, stacked[name])
    # Copies of one layer get noise of their own.
    assert not torch.equal(noise[fc1], noise[fc1.replace("3", "1", 1)])
