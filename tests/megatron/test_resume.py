"""Killed and run again, a training ends in the same bits: stopped in this process after every step."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
import torch

from pipelines.megatron.spec import ExpertSpec, ModelSpec, TrainingSpec
from pipelines.runs.checkpoints import Checkpoints
from pipelines.runs.job import Job
from pipelines.runs.methods import load_method
from pipelines.runs.verb import Execution

MODEL = ModelSpec(
    num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=16
)
BASE = MODEL.model_copy(update={"num_layers": 1})
EXPERTS = ExpertSpec(num_moe_experts=4, moe_router_topk=2, moe_ffn_hidden_size=48)
# Steps fall inside, at the end of and between the windows of the log and of the evaluation.
TRAINING = TrainingSpec(
    train_iters=6,
    global_batch_size=4,
    lr=0.01,
    lr_warmup_iters=2,
    clip_grad=0.5,
    log_interval=4,
    eval_interval=3,
    eval_tokens=100,
)


class Killed(Exception):
    """Ends a training where a kill would."""


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRACE_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("RETRACE_CHECKPOINT_SECONDS", raising=False)
    return tmp_path / "work"


@pytest.fixture(scope="module", autouse=True)
def _leave_no_process_group():
    yield
    from pipelines.megatron import backend

    backend.shutdown()


@pytest.fixture
def kill_after(monkeypatch):
    """``kill_after(step)``: the next training ends right after that step's checkpoint; None: not any more."""
    after_step = Checkpoints.after_step

    def kill_after(last):
        def stop(self, step, capture):
            after_step(self, step, capture)
            if step == last:
                raise Killed

        monkeypatch.setattr(Checkpoints, "after_step", stop)

    return kill_after


@pytest.fixture(scope="module")
def inputs(tokens, tmp_path_factory):
    """Token artifact, and dense models to grow (half the layers) and to upcycle (all of them)."""
    from pipelines.megatron.training import train

    made = {"tokens": tokens}
    training = TRAINING.model_copy(update={"train_iters": 3, "log_interval": 100})
    for name, model in (("base", BASE), ("dense", MODEL)):
        made[name] = tmp_path_factory.mktemp(name)
        with closing(Job(made[name], name, Execution())) as job:
            train(model, None, training, 1, tokens, job)
    return made


@pytest.fixture
def attempt(inputs, tmp_path):
    """``attempt(name, run)``: one attempt at a job; ``run(inputs, job)`` gives the final metrics."""

    def attempt(name, run):
        job = Job(tmp_path / name, name.split("-")[0], Execution(checkpoint_seconds=0))
        job.out.mkdir()
        with closing(job):
            final = run(inputs, job)
        return final, job.facts, {file.name: file.read_bytes() for file in sorted(job.out.iterdir())}

    return attempt


def dense(precision, untied=False, **options):
    def run(inputs, job):
        from pipelines.megatron.training import train

        model = MODEL.model_copy(update={"untie_embeddings_and_output_weights": untied})
        training = TRAINING.model_copy(update={"precision": precision, **options})
        return train(model, None, training, 1, inputs["tokens"], job)

    return run


def factored(**method):
    def run(inputs, job):
        from pipelines.pretrain.spec import TrainSpec
        from pipelines.pretrain.training import train

        spec = TrainSpec(method=method, model=MODEL, training=TRAINING, seed=1)
        return train(spec, {"tokens": inputs["tokens"]}, job)

    return run


def grown(**method):
    def run(inputs, job):
        from pipelines.growth.spec import GrowthSpec
        from pipelines.growth.training import train

        given = {"growth_factor": 2, **method}
        target = load_method("growth", given).target(BASE)
        spec = GrowthSpec(method=given, model=target, training=TRAINING, seed=1)
        return train(spec, {"tokens": inputs["tokens"], "base": inputs["base"]}, job)

    return run


def experts(method, init="scratch"):
    def run(inputs, job):
        from pipelines.moe.spec import MoESpec
        from pipelines.moe.training import train

        spec = MoESpec(
            method=method, model=MODEL, experts=EXPERTS, training=TRAINING, micro_batch_size=2, init=init, seed=1
        )
        read = ("tokens", "dense") if init == "upcycle" else ("tokens",)
        return train(spec, {name: inputs[name] for name in read}, job)

    return run


def stateful(inputs, job):
    """A training that draws random numbers, and whose modules keep a running mean and count steps."""
    from pipelines.megatron.training import train

    def prepare(model):
        norm = model.decoder.layers[0].input_layernorm
        norm.register_buffer("running", torch.zeros(32), persistent=False)
        norm.register_buffer("passes", torch.zeros((), dtype=torch.int64))

        def noise(norm, inputs, output):
            if norm.training:
                norm.running.lerp_(output.detach().mean((0, 1)), 0.1)
                norm.passes += 1
                output = output + 0.1 * torch.randn_like(output) + norm.running
            return output

        norm.register_forward_hook(noise)

    def on_log(model):
        norm = model.decoder.layers[0].input_layernorm
        return {"running": norm.running.norm().item(), "passes": int(norm.passes)}

    # The one place a process for random numbers: other tests draw from it too.
    torch.manual_seed(3)
    return train(MODEL, None, TRAINING, 1, inputs["tokens"], job, prepare=prepare, on_log=on_log)


TRAININGS = {
    "dense_bf16": dense("bf16"),
    "dense_fp32_untied_wsd": dense(
        "fp32", untied=True, lr_decay_style="WSD", lr_wsd_decay_iters=2, interim_eval_tokens=80, eval_tokens=None
    ),
    "sltrain": factored(name="sltrain", rank=4),
    "stacked": grown(name="stack"),
    "masked": grown(name="random_depth", ramp_iters=3),
    "masked_width": grown(name="random_width", ramp_iters=3),
    "topk": experts({"name": "topk"}),
    "rmoe_upcycled": experts({"name": "rmoe", "recurrent_size": 8}, init="upcycle"),
    "stateful": stateful,
}


@pytest.mark.parametrize("kind", TRAININGS)
def test_stopped_after_any_step_a_training_ends_in_the_same_bits(attempt, kill_after, kind):
    run = TRAININGS[kind]
    final, facts, files = attempt(f"{kind}_whole", run)
    steps = [json.loads(line)["step"] for line in files["metrics.jsonl"].splitlines()]
    for step in range(1, max(steps) + 1):
        key = f"{kind}{step}"
        kill_after(step)
        with pytest.raises(Killed):
            attempt(f"{key}-killed", run)
        kill_after(None)
        resumed, resumed_facts, resumed_files = attempt(f"{key}-resumed", run)
        assert resumed_facts == {**facts, "resumed_from_step": step}
        assert resumed == final
        assert resumed_files.keys() == files.keys()
        assert {"metrics.jsonl", "position_losses.npz", "model-00001-of-00001.safetensors"} <= files.keys()
        for name, content in files.items():
            assert resumed_files[name] == content, (step, name)


def test_killed_after_every_step_in_turn_a_training_ends_in_the_same_bits(attempt, kill_after):
    run = TRAININGS["topk"]
    final, _, files = attempt("whole", run)
    for step in range(1, TRAINING.train_iters + 1):
        kill_after(step)
        with pytest.raises(Killed):
            attempt(f"chain-{step}", run)
    kill_after(None)
    resumed, _, resumed_files = attempt("chain-last", run)
    assert (resumed, resumed_files) == (final, files)


def test_a_checkpoint_holds_every_tensor_that_training_changes(attempt, kill_after, work):
    """Nothing that a module or the optimizer keeps is left out, and nothing is there twice."""
    from safetensors import safe_open

    kill_after(2)
    with pytest.raises(Killed):
        attempt("key-killed", TRAININGS["rmoe_upcycled"])
    with safe_open(work / "key" / "step-2" / "rank0.safetensors", "pt") as file:
        names = set(file.keys())
    parameters = {name.removeprefix("parameter/") for name in names if name.startswith("parameter/")}
    moments = {name.removeprefix("optimizer/") for name in names if name.startswith("optimizer/")}
    assert "router_recurrence.cell.weight_ih" in parameters
    assert moments == {f"{name}/{each}" for name in parameters for each in ("exp_avg", "exp_avg_sq", "step")}
    assert {"losses", "random/cpu", "auxiliary/load_balancing_loss", "buffer/routing_statistics.tokens_LN"} <= names


def test_a_damaged_checkpoint_costs_one_step(attempt, kill_after, work, capsys):
    run = TRAININGS["topk"]
    _, _, files = attempt("whole", run)
    kill_after(4)
    with pytest.raises(Killed):
        attempt("key-killed", run)
    kill_after(None)
    newest = work / "key" / "step-4" / "rank0.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    _, facts, resumed = attempt("key-resumed", run)
    assert facts["resumed_from_step"] == 3
    assert f"warning: {newest} is damaged" in capsys.readouterr().err
    assert resumed == files
