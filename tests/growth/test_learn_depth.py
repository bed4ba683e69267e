"""Learnt depth: the initial map is stacking, learning trains the map alone, and its cost is charged."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.growth.grow import grow
from pipelines.growth.learning import backward, learn, learning_cost
from pipelines.growth.slices import Shape
from pipelines.growth.spec import GrowSpec, GrowthSpec
from pipelines.growth.training import train
from pipelines.megatron.checkpoint import read_config, read_tensors
from pipelines.megatron.data import TrainingWindows, open_tokens
from pipelines.megatron.definition import logits_of
from pipelines.megatron.flops import training_flops_per_token
from pipelines.megatron.huggingface import split_qkv
from pipelines.megatron.spec import TrainingSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method

sys.path.insert(0, str(Path(__file__).parent))
import small_models as models

EXPERTS, MODEL = models.EXPERTS, models.MODEL
TARGET = MODEL.model_copy(update={"num_layers": 4})
METHOD = {"name": "learn_depth", "growth_factor": 2, "learn_iters": 4, "learn_batch_size": 4, "learn_lr": 0.02}


def sequences(first, count):
    return (torch.arange(MODEL.seq_length + 1) + torch.arange(first, first + count)[:, None]) % models.VOCAB_SIZE


def random_maps(method, base, tensors):
    generator = torch.Generator().manual_seed(0)
    return {
        name: each + 0.3 * torch.randn(each.shape, generator=generator)
        for name, each in method.initial_maps(base, tensors, 0).items()
    }


@pytest.mark.parametrize("experts", [None, EXPERTS])
def test_without_learning_it_is_stacking_to_the_bit(experts, job):
    method = load_method("growth", {**METHOD, "learn_iters": 0})
    base, tensors = Shape(MODEL, experts), models.weights(experts=experts)
    stacked = dict(load_method("growth", {"name": "stack", "growth_factor": 2}).grow(MODEL, tensors, 0))
    with job("nothing") as made:
        learned = learn(method, base, Shape(TARGET, experts), tensors, sequences, 0, made)
    for grown in (dict(method.grow(MODEL, tensors, 0)), dict(learned.grow(MODEL, tensors, 0))):
        assert list(grown) == list(stacked)
        assert all(torch.equal(grown[name], stacked[name]) for name in stacked)


def test_every_grown_matrix_is_the_combination_of_the_papers_equation():
    method, base, tensors = load_method("growth", METHOD), Shape(MODEL), models.weights()
    maps = random_maps(method, base, tensors)
    grown = dict(method.mapped(base, tensors, maps))

    def expected(layer, suffix, kind, part=lambda tensor: tensor):
        return sum(
            maps[f"{suffix}/{kind}"][layer, source].double() * part(tensors[f"decoder.layers.{source}.{suffix}"])
            for source in range(2)
        )

    def equal(ours, theirs):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)

    for layer in range(4):
        for suffix in ("input_layernorm.weight", "self_attention.linear_proj.weight", "mlp.linear_fc2.weight"):
            equal(grown[f"decoder.layers.{layer}.{suffix}"], expected(layer, suffix, "all"))
        for index, kind in enumerate(("gate", "up")):
            suffix = "mlp.linear_fc1.weight"
            half = grown[f"decoder.layers.{layer}.{suffix}"].chunk(2)[index]
            equal(half, expected(layer, suffix, kind, lambda tensor, i=index: tensor.chunk(2)[i]))
        for index, kind in enumerate("qkv"):
            suffix = "self_attention.linear_qkv.weight"
            ours = split_qkv(grown[f"decoder.layers.{layer}.{suffix}"], MODEL)[index]
            equal(ours, expected(layer, suffix, kind, lambda tensor, i=index: split_qkv(tensor, MODEL)[i]))
    for name in ("embedding.word_embeddings.weight", "decoder.final_layernorm.weight"):
        assert torch.equal(grown[name], tensors[name])


def test_the_gradient_is_that_of_finite_differences_and_reaches_the_map_alone():
    method, base, target = load_method("growth", METHOD), Shape(MODEL), Shape(TARGET)
    tensors = {name: tensor.requires_grad_(False) for name, tensor in models.trained().items()}
    maps = {name: each.double().requires_grad_() for name, each in random_maps(method, base, tensors).items()}
    tokens = sequences(0, 10)
    loss = backward(dict(method.mapped(base, tensors, maps)), target, tokens)
    assert all(tensor.grad is None for tensor in tensors.values())
    with torch.no_grad():
        for name in ("self_attention.linear_qkv.weight/k", "mlp.linear_fc1.weight/up", "input_layernorm.weight/all"):
            for at in ((0, 1), (3, 0)):
                changed = dict(maps)
                changed[name] = maps[name].clone()
                changed[name][at] += 1e-6
                logits = logits_of(dict(method.mapped(base, tensors, changed)), TARGET, None, tokens[:, :-1])
                other = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
                assert (other - loss) / 1e-6 == pytest.approx(float(maps[name].grad[at]), rel=1e-3, abs=1e-7)


def test_learning_lowers_the_loss_and_the_grown_weights_compute_what_was_learnt(job):
    method = load_method("growth", {**METHOD, "learn_iters": 20})
    base, target, tensors = Shape(MODEL), Shape(TARGET), models.trained(steps=60)
    with job("learn") as made:
        learned = learn(method, base, target, tensors, lambda first, count: sequences(0, count), 0, made)
    assert learned.losses[-1] < 0.8 * learned.losses[0]
    assert learned.facts(MODEL)["last_learn_loss"] == learned.losses[-1]
    grown = dict(learned.grow(MODEL, {name: tensor.float() for name, tensor in tensors.items()}, 0))
    assert all(tensor.dtype == torch.float32 and not tensor.requires_grad for tensor in grown.values())
    tokens = sequences(0, 4)
    functional = logits_of(dict(method.mapped(base, tensors, learned.maps)), TARGET, None, tokens)
    materialised = logits_of(grown, TARGET, None, tokens)
    assert float((functional - materialised).norm() / functional.norm()) < 1e-6


def test_no_step_is_worth_the_same_twice_and_the_same_job_learns_the_same_map(job):
    method, tensors = load_method("growth", METHOD), models.trained()
    read = []

    def watched(first, count):
        read.append((first, count))
        return sequences(first, count)

    learned = []
    for name in ("one", "two"):
        with job(name) as made:
            learned.append(learn(method, Shape(MODEL), Shape(TARGET), tensors, watched, 0, made))
    assert read == [(0, 4), (4, 4), (8, 4), (12, 4)] * 2
    assert all(torch.equal(learned[0].maps[name], learned[1].maps[name]) for name in learned[0].maps)


def test_the_cost_counts_the_grown_models_training_and_the_map():
    cost = learning_cost(load_method("growth", METHOD), Shape(MODEL), Shape(TARGET), models.VOCAB_SIZE)
    layer = sum(t.numel() for name, t in models.weights().items() if ".layers.0." in name)
    assert cost.num_sequences == 16
    assert cost.tokens == 16 * MODEL.seq_length
    assert cost.flops == cost.tokens * training_flops_per_token(TARGET, models.VOCAB_SIZE) + 4 * (4 * 4 * 2 * layer)
    nothing = learning_cost(load_method("growth", "stack"), Shape(MODEL), Shape(TARGET), models.VOCAB_SIZE)
    assert (nothing.num_sequences, nothing.tokens, nothing.flops) == (0, 0, 0)


TRAINING = TrainingSpec(
    train_iters=12, global_batch_size=4, lr=5e-3, lr_warmup_iters=2, precision="fp32", log_interval=1
)


@pytest.fixture(scope="module")
def base(tokens, tmp_path_factory):
    from pipelines.megatron.training import train as train_dense
    from pipelines.runs.job import Job
    from pipelines.runs.verb import Execution

    job = Job(tmp_path_factory.mktemp("base"), "base of learnt depth", Execution())
    train_dense(MODEL, None, TRAINING.model_copy(update={"train_iters": 6}), 0, tokens, job)
    job.close()
    return job.out


def test_training_after_learning_counts_what_learning_has_cost_and_reads_other_text(base, tokens, job):
    spec = GrowthSpec(method=METHOD, model=TARGET, training=TRAINING)
    with job("grown") as made:
        final = train(spec, {"tokens": tokens, "base": base}, made)
    facts, before, after = made.facts, read_config(base), read_config(made.out)
    cost = learning_cost(load_method("growth", METHOD), Shape(MODEL), Shape(TARGET), before["vocab_size"])
    assert facts["learning_flops"] == cost.flops
    step = 4 * MODEL.seq_length * training_flops_per_token(TARGET, before["vocab_size"])
    assert final["flops"] == before["flops_spent"] + cost.flops + facts["train_iters"] * step
    assert abs(final["flops"] - 12 * step) <= step / 2
    assert final["base_tokens"] == before["tokens_seen"]
    assert final["tokens"] == before["tokens_seen"] + cost.tokens + facts["train_iters"] * 4 * MODEL.seq_length
    # 24 sequences were the base's, 16 the map's.
    assert facts["start_sequence"] == 24 + 16
    assert after["next_sequence"] == 40 + facts["train_iters"] * 4
    assert facts["last_learn_loss"] > 0


def test_growing_a_checkpoint_learns_on_the_tokens_given_after_those_the_base_has_read(base, tokens, job, monkeypatch):
    read = []
    whole = TrainingWindows(open_tokens(tokens).split("train").tokens, MODEL.seq_length, 0)
    asked = TrainingWindows.window

    def window(self, number):
        found = asked(self, number)
        read.append(found)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(TrainingWindows, "window", window)
        with job("grown") as made:
            grow(GrowSpec(method=METHOD), {"input": base, "tokens": tokens}, made)
    assert read == [whole.window(24 + number) for number in range(16)]
    config = read_config(made.out)
    assert config["next_sequence"] == 40
    assert config["tokens_seen"] == read_config(base)["tokens_seen"] + made.facts["learning_tokens"]
    assert config["flops_spent"] == read_config(base)["flops_spent"] + made.facts["learning_flops"]
    assert made.facts["certificate"]["checkpoint"]["relative_deviation"] > 0
    assert len(read_tensors(made.out)) == 2 + 4 * 6


def test_growing_a_hugging_face_folder_learns_too(tokens, tmp_path, job):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=16, **sizes)).save_pretrained(tmp_path / "hf")
    with job("grown") as made:
        grow(GrowSpec(method=METHOD), {"input": tmp_path / "hf", "tokens": tokens}, made)
    assert json.loads((made.out / "config.json").read_text())["num_hidden_layers"] == 4
    assert np.isfinite(made.facts["last_learn_loss"])


def test_tokens_are_demanded_where_text_is_needed_and_refused_where_it_is_not(base, tokens, job, tmp_path, run_cli):
    done = run_cli(
        *("growth", "grow", "--input", base, "--out", tmp_path / "out"), spec={"method": METHOD}, check=False
    )
    assert done.returncode == 2
    assert "--tokens is missing: folder made by `tokenizer tokenize`" in done.stderr
    with job("stack") as made, pytest.raises(RetraceError, match="stack learns nothing from text; leave it out"):
        grow(GrowSpec(method={"name": "stack"}), {"input": base, "tokens": tokens}, made)
    with job("wrong") as made, pytest.raises(RetraceError, match="learn_batch_size at least 1"):
        grow(GrowSpec(method={**METHOD, "learn_batch_size": 0}), {"input": base, "tokens": tokens}, made)
    config = json.loads((base / "config.json").read_text())
    out = tmp_path / "other"
    out.mkdir()
    for file in base.glob("model*"):
        (out / file.name).symlink_to(file)
    (out / "config.json").write_text(json.dumps({**config, "tokenizer_key": "another"}))
    with job("vocabulary") as made, pytest.raises(RetraceError, match="trained with another tokenizer"):
        grow(GrowSpec(method=METHOD), {"input": out, "tokens": tokens}, made)
