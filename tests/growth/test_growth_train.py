"""``growth train`` and ``growth grow``: FLOPs, data ledger, records, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipelines.growth.grow import grow
from pipelines.growth.matching import match_flops
from pipelines.growth.spec import GrowSpec, GrowthSpec
from pipelines.growth.training import train
from pipelines.megatron.checkpoint import read_config, read_tensors
from pipelines.megatron.spec import ModelSpec, TrainingSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import METRICS

BASE = ModelSpec(
    num_layers=2, hidden_size=16, ffn_hidden_size=24, num_attention_heads=4, num_query_groups=2, seq_length=12
)
TARGET = BASE.model_copy(update={"num_layers": 4})
TRAINING = TrainingSpec(
    train_iters=12,
    global_batch_size=4,
    lr=5e-3,
    min_lr=5e-4,
    lr_warmup_iters=2,
    precision="fp32",
    log_interval=1,
)
SEED = 3
STACK = {"name": "stack", "growth_factor": 2, "stacking_list": None}


def growth_spec(method, **changes):
    values = {"method": method, "model": TARGET, "training": TRAINING, "seed": SEED, **changes}
    return GrowthSpec.model_validate({k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in values.items()})


@pytest.fixture
def base(job, tokens):
    from pipelines.megatron.training import train as train_dense

    with job("base") as base_job:
        schedule = TRAINING.model_copy(update={"train_iters": 7})
        train_dense(BASE, None, schedule, SEED, tokens, base_job)
    return base_job.out


@pytest.fixture
def runs(job, tokens, base):
    """Base, scratch and grown runs of one setting."""
    with job("scratch") as scratch_job:
        scratch = train(growth_spec({"name": "scratch"}), {"tokens": tokens}, scratch_job)
    with job("grown") as grown_job:
        grown = train(growth_spec(STACK), {"tokens": tokens, "base": base}, grown_job)
    return SimpleNamespace(
        base=base, scratch=scratch, grown=grown, scratch_job=scratch_job, grown_job=grown_job, config=read_config(base)
    )


def logged(job):
    return [json.loads(line) for line in (job.out / METRICS).read_text().splitlines()]


def test_base_and_target_together_cost_what_scratch_costs_within_one_step(runs):
    step = runs.scratch["flops"] // TRAINING.train_iters
    assert runs.scratch["flops"] == step * TRAINING.train_iters
    assert runs.config["flops_spent"] > 0
    assert abs(runs.grown["flops"] - runs.scratch["flops"]) <= step
    facts = runs.grown_job.facts
    steps = facts["train_iters"]
    assert runs.grown["flops"] == runs.config["flops_spent"] + steps * step
    assert steps < TRAINING.train_iters
    assert facts["flops_matched_within_steps"] <= 0.5
    assert facts["flops_budget"] == runs.scratch["flops"]


def test_logged_flops_and_tokens_include_the_bases(runs):
    lines = [line for line in logged(runs.grown_job) if "loss" in line]
    step = runs.scratch["flops"] // TRAINING.train_iters
    assert lines[0]["flops"] == runs.config["flops_spent"] + step
    assert lines[0]["tokens"] == runs.config["tokens_seen"] + 4 * 12


def test_the_optimizer_and_the_schedule_start_anew_over_the_remaining_steps(runs):
    lines = [line for line in logged(runs.grown_job) if "loss" in line]
    rates = [line["lr"] for line in lines]
    n, warmup = len(lines), TRAINING.lr_warmup_iters
    assert n == runs.grown_job.facts["train_iters"]
    assert rates[warmup - 1] == pytest.approx(TRAINING.lr)
    assert rates[-1] == pytest.approx(TRAINING.min_lr)
    middle = (n - warmup) // 2
    cosine = (1 + np.cos(np.pi * middle / (n - warmup))) / 2
    expected = TRAINING.min_lr + (TRAINING.lr - TRAINING.min_lr) * cosine
    assert rates[warmup + middle - 1] == pytest.approx(expected)


def test_the_grown_run_reads_no_sequence_that_the_base_has_read(runs, tokens):
    from pipelines.megatron.data import TrainingWindows, open_tokens

    facts, config = runs.grown_job.facts, read_config(runs.grown_job.out)
    stream = open_tokens(tokens).split("train").tokens
    after = TrainingWindows(stream, 12, SEED, facts["start_sequence"])
    whole = TrainingWindows(stream, 12, SEED)
    by_base = {whole.window(n) for n in range(7 * 4)}
    by_grown = {after.window(n) for n in range(facts["train_iters"] * 4)}
    assert facts["start_sequence"] == 7 * 4
    assert not by_base & by_grown
    assert facts["num_repeated_sequences"] == 0
    assert config["next_sequence"] == 28 + facts["train_iters"] * 4
    # Base and grown model together read what one run of that many sequences reads.
    assert by_base | by_grown == {whole.window(n) for n in range(config["next_sequence"])}


def test_run_record_says_what_growth_did(runs):
    facts = runs.grown_job.facts
    assert facts["stacking_list"] == [0, 1, 0, 1]
    assert facts["connection_rate"] == pytest.approx(66.67)
    assert facts["preserved"] is False
    assert facts["base_flops"] == runs.config["flops_spent"]
    assert facts["optimizer_policy"] == "fresh"
    assert facts["num_parameters"] == runs.grown["num_parameters"] == runs.scratch["num_parameters"]


def test_training_certifies_the_growth_it_starts_from_as_growing_a_checkpoint_does(runs, base, tokens, job):
    certificate = runs.grown_job.facts["certificate"]
    assert runs.grown["logit_deviation"] == certificate["checkpoint"]["relative_deviation"] > 1e-3
    with job("stacked") as stacked:
        grow(GrowSpec(method=STACK, seed=SEED), {"input": base}, stacked)
    assert stacked.facts["certificate"] == certificate
    assert "certificate" not in runs.scratch_job.facts
    with job("unmeasured") as unmeasured:
        final = train(growth_spec(STACK, certify=False), {"tokens": tokens, "base": base}, unmeasured)
    assert "certificate" not in unmeasured.facts
    assert "logit_deviation" not in final


@pytest.mark.parametrize("method", ["zero_depth", "random_depth"])
def test_a_preserving_growth_is_measured_with_the_mask_of_its_first_step(method, base, tokens, job):
    with job("grown") as made:
        final = train(growth_spec({"name": method, "growth_factor": 2}), {"tokens": tokens, "base": base}, made)
    assert final["logit_deviation"] < 1e-6
    assert made.facts["preserved"]


def test_a_method_that_changes_the_function_against_its_word_is_not_trained(base, tokens, job, monkeypatch):
    from pipelines.growth.methods.stack import Stack
    from pipelines.growth.protocol import Preservation

    monkeypatch.setattr(Stack, "preserves", lambda self, base: Preservation("exact", bound=1e-12))
    with job("grown") as made, pytest.raises(RetraceError, match="this is a defect of the method"):
        train(growth_spec(STACK), {"tokens": tokens, "base": base}, made)
    assert not (made.out / METRICS).exists()


def test_growing_a_checkpoint_gives_what_growth_train_starts_from(runs, job, tokens):
    with job("checkpoint") as grow_job:
        final = grow(GrowSpec(method=STACK), {"input": runs.base}, grow_job)
    grown, base = read_tensors(grow_job.out), read_tensors(runs.base)
    for i in range(4):
        for name in (n for n in base if n.startswith("decoder.layers.0.")):
            suffix = name.removeprefix("decoder.layers.0.")
            assert torch.equal(grown[f"decoder.layers.{i}.{suffix}"], base[f"decoder.layers.{i % 2}.{suffix}"])
    layer = sum(base[n].numel() for n in base if n.startswith("decoder.layers.0."))
    rest = sum(base[n].numel() for n in base if ".layers." not in n)
    assert final["num_parameters"] == sum(grown[n].numel() for n in grown) == rest + 4 * layer
    config = read_config(grow_job.out)
    assert config == {**runs.config, "model": TARGET.model_dump()}


def test_growth_factor_one_writes_the_same_files_byte_for_byte(base, job):
    with job("same") as same:
        grow(GrowSpec(method={"name": "stack", "growth_factor": 1}), {"input": base}, same)
    for file in sorted(base.glob("*.safetensors*")):
        assert (same.out / file.name).read_bytes() == file.read_bytes()
    assert read_config(same.out) == read_config(base)


def test_stacking_is_not_silently_function_preserving(base, job):
    from pipelines.megatron.inference import load_for_inference
    from pipelines.runs.verb import Execution

    with job("grown") as grow_job:
        grow(GrowSpec(method=STACK), {"input": base}, grow_job)
    ids = torch.arange(12)[None] + 1
    before = load_for_inference(base, Execution())(ids)
    after = load_for_inference(grow_job.out, Execution())(ids)
    assert (after - before).norm() / before.norm() > 0.01


def test_the_cost_of_the_base_is_rounded_to_the_nearest_step():
    step = match_flops(TARGET, TRAINING, 32, 0).budget // 12
    for base_flops, steps in ((0, 12), (step // 3, 12), (2 * step // 3, 11), (11 * step, 1)):
        matched = match_flops(TARGET, TRAINING, 32, base_flops)
        assert matched.train_iters == steps
        assert matched.within_steps == pytest.approx(abs(base_flops + steps * step - 12 * step) / step)
        assert matched.within_steps <= 0.5
    with pytest.raises(RetraceError, match=r"raise training\.train_iters"):
        match_flops(TARGET, TRAINING, 32, 12 * step)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": TARGET.model_copy(update={"num_layers": 6})}, "model.num_layers is 6, but growing the 2 layers"),
        (
            {"model": TARGET.model_copy(update={"hidden_size": 32})},
            "model.hidden_size is 32, but growing",
        ),
        ({"model": TARGET.model_copy(update={"num_query_groups": 4})}, "model.num_query_groups is 4"),
        ({"model": TARGET.model_copy(update={"untie_embeddings_and_output_weights": True})}, "untie_embeddings"),
        ({"method": {"name": "stack", "stacking_list": [0, 1, 2, 1]}}, "index 2 is out of range"),
        ({"method": {"name": "stack", "stacking_list": [1]}}, "growth to fewer layers"),
        ({"seed": SEED + 1}, "trained with seed 3 and this job has seed 4"),
        ({"training": TRAINING.model_copy(update={"train_iters": 4})}, "raise training.train_iters"),
        ({"training": TRAINING.model_copy(update={"lr_warmup_iters": 10})}, "lr_warmup_iters 10 must be below"),
        ({"method": {"name": "scratch"}}, "scratch grows nothing; leave it out"),
    ],
)
def test_growth_that_does_not_fit_is_refused_before_training(base, tokens, job, changes, message):
    spec = growth_spec(**{"method": STACK, **changes})
    with job("refused") as refused, pytest.raises(RetraceError, match=message):
        train(spec, {"tokens": tokens, "base": base}, refused)
    assert list(refused.out.iterdir()) == []


def test_a_mixture_of_experts_and_another_vocabulary_are_refused(base, tokens, job):
    config = json.loads((base / "config.json").read_text())
    experts = {"num_moe_experts": 2, "moe_router_topk": 1, "moe_ffn_hidden_size": 4}
    for change, message in (
        ({"experts": experts}, "--base is a mixture of experts"),
        ({"vocab_size": 33}, "--base has a vocabulary of 33"),
        ({"tokenizer_key": "another"}, "--base was trained with another tokenizer"),
    ):
        (base / "config.json").write_text(json.dumps({**config, **change}))
        with job(message.split()[-1]) as refused, pytest.raises(RetraceError, match=message):
            train(growth_spec(STACK), {"tokens": tokens, "base": base}, refused)


@pytest.mark.slow
def test_the_command_line_grows_refuses_and_leaves_nothing_behind(base, tokens, tmp_path, run_cli):
    out = tmp_path / "out"
    spec = growth_spec(STACK).model_dump()
    missing = run_cli("growth", "train", "--tokens", tokens, "--out", out, spec=spec, check=False)
    assert missing.returncode == 2
    assert "--base is missing" in missing.stderr
    small = {**spec, "model": {**spec["model"], "num_layers": 3}}
    wrong = run_cli("growth", "train", "--tokens", tokens, "--base", base, "--out", out, spec=small, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.strip().splitlines()[-1].startswith("error: model.num_layers is 3")
    assert not out.exists()
    assert not list(tmp_path.glob("*partial*"))
    run_cli("growth", "train", "--tokens", tokens, "--base", base, "--out", out, spec=spec)
    record = json.loads((out / "run.json").read_text())
    assert record["preserved"] is False
    assert record["connection_rate"] == pytest.approx(66.67)
