"""``moe train`` as a job: the same numbers on any layout, upcycling on the ledger, and what is refused."""

import json

import pytest
import torch

from pipelines.moe.spec import MoESpec
from pipelines.moe.training import train
from pipelines.moe.verbs import check
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import Job, read_metrics, read_record
from pipelines.runs.methods import load_method
from pipelines.runs.verb import Execution

TRAINING = {
    "train_iters": 6,
    "global_batch_size": 8,
    "lr": 5e-3,
    "lr_warmup_iters": 1,
    "precision": "fp32",
    "log_interval": 1,
    "eval_interval": 3,
}


@pytest.fixture
def spec(tiny):
    model, experts = tiny

    def spec(method, **changes):
        values = {
            "method": method,
            "model": model.model_dump(),
            "experts": {**experts.model_dump(), "moe_aux_loss_coeff": 0.01},
            "training": TRAINING,
            "micro_batch_size": 2,
            "seed": 4,
        }
        return {**values, **changes}

    return spec


@pytest.fixture
def run_here(tmp_path):
    """Run the implementation in this process; returns (out, final metrics, facts)."""

    def run_here(spec, inputs, name="out"):
        job = Job(tmp_path / name, "key", Execution())
        job.out.mkdir()
        final = train(MoESpec.model_validate(spec), inputs, job)
        job.close()
        return job.out, final, job.facts

    return run_here


RMOE = {"name": "rmoe", "recurrent_size": 6, "cell": "gru", "pass_state": True}


@pytest.mark.slow
@pytest.mark.parametrize("method", [RMOE, {"name": "topk"}], ids=["rmoe", "topk"])
def test_two_expert_parallel_processes_give_the_numbers_of_one(spec, tokens, run_cli, tmp_path, method):
    layouts = {"one": {}, "two": {"processes": 2, "expert_model_parallel_size": 2}}
    for name, execution in layouts.items():
        run_cli(*("moe", "train", "--tokens", tokens, "--out", tmp_path / name), spec=spec(method), execution=execution)
    record = read_record(tmp_path / "two")
    layout = {key: record[key] for key in ("expert_model_parallel_size", "world_size", "backend")}
    assert layout == {"expert_model_parallel_size": 2, "world_size": 2, "backend": "gloo"}
    one, two = read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")
    assert len(one) == len(two) == 6 + 2 + 1
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert theirs[key] == pytest.approx(ours[key], rel=1e-6, abs=1e-9), key
    assert {"val_loss", "val_bits_per_byte", "num_parameters", "num_active_parameters"} <= one[-1].keys()
    assert {"load_imbalance", "router_entropy", "val_aux_loss", "load_balancing_loss"} <= one[-1].keys()
    assert one[0]["loss"] > one[5]["loss"]


def test_the_checkpoint_holds_the_shared_cell_once_and_the_counts_are_its_sizes(spec, tokens, run_here, tiny):
    from pipelines.megatron.checkpoint import read_config, read_tensors
    from pipelines.megatron.flops import training_flops_per_token

    values = spec(RMOE)
    out, final, facts = run_here(values, {"tokens": tokens})
    tensors = read_tensors(out)
    assert len([name for name in tensors if "cell" in name]) == 4
    assert len([name for name in tensors if ".router." in name]) == 6
    assert final["num_parameters"] == sum(tensors[name].numel() for name in tensors)
    idle = 3 * 2 * 3 * 16 * 10
    assert final["num_active_parameters"] == final["num_parameters"] - idle
    assert read_config(out)["moe_method"] == values["method"]
    model, experts = tiny
    extra = load_method("moe", RMOE).extra_flops_per_token(model, experts)
    assert facts["flops_per_token"] == training_flops_per_token(model, 32, experts) + 3 * extra
    assert 1 <= final["load_imbalance"] <= 4
    assert 0 < final["router_entropy"] <= torch.log(torch.tensor(4.0))


@pytest.mark.parametrize("method", [RMOE, {"name": "topk"}], ids=["rmoe", "topk"])
def test_an_upcycled_model_starts_as_the_dense_one_and_goes_on_in_its_ledger(
    spec, tokens, run_here, tmp_path, tiny, method
):
    from pipelines.megatron.spec import TrainingSpec
    from pipelines.megatron.training import train as train_dense

    model, _ = tiny
    job = Job(tmp_path / "dense", "key", Execution())
    job.out.mkdir()
    dense = train_dense(model, None, TrainingSpec.model_validate(TRAINING), 4, tokens, job)
    job.close()
    # A learning rate of nearly zero leaves the upcycled model where it starts.
    still = {**TRAINING, "train_iters": 2, "lr": 1e-12, "eval_interval": None}
    experts = {"num_moe_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 24, "moe_aux_loss_coeff": 0.0}
    values = spec(method, init="upcycle", training=still, experts=experts)
    out, final, facts = run_here(values, {"tokens": tokens, "dense": job.out})
    assert final["val_loss"] == pytest.approx(dense["val_loss"], abs=1e-5)
    assert final["tokens"] == dense["tokens"] + 2 * 8 * 12
    assert final["flops"] == dense["flops"] + 2 * 8 * 12 * facts["flops_per_token"]
    assert facts["start_sequence"] == 6 * 8
    assert json.loads((out / "config.json").read_text())["next_sequence"] == 8 * 8
    assert final["num_parameters"] > dense["num_parameters"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "upcycle"}, "moe_ffn_hidden_size 10 must equal model.ffn_hidden_size 24"),
        ({"micro_batch_size": 3}, "micro_batch_size 3 does not divide"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(spec, changes, message):
    with pytest.raises(ValueError, match=message):
        MoESpec.model_validate(spec(RMOE, **changes))


def test_upcycling_without_a_dense_model_and_a_dense_model_without_upcycling_are_refused(spec, run_here, tokens):
    experts = {"num_moe_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 24}
    with pytest.raises(RetraceError, match="--dense is missing"):
        run_here(spec(RMOE, init="upcycle", experts=experts), {"tokens": tokens})
    with pytest.raises(RetraceError, match="init scratch uses no dense model"):
        run_here(spec(RMOE), {"tokens": tokens, "dense": tokens}, "other")


@pytest.mark.parametrize(
    ("method", "execution", "message"),
    [
        (RMOE, {"processes": 3, "pipeline_model_parallel_size": 3}, "rmoe passes state between layers"),
        (RMOE, {"processes": 3, "expert_model_parallel_size": 3}, "does not divide num_moe_experts 4"),
        (RMOE, {"processes": 1, "expert_model_parallel_size": 2}, "raise --exec processes"),
        (RMOE, {"processes": 8}, "micro_batch_size 2 does not divide the 1 sequences of a rank"),
    ],
)
def test_a_layout_that_cannot_work_is_refused_before_any_rank_starts(spec, method, execution, message):
    with pytest.raises(RetraceError, match=message):
        check(MoESpec.model_validate(spec(method)), Execution.model_validate(execution))


def test_a_pipeline_is_allowed_for_the_linear_router(spec):
    execution = Execution(processes=3, pipeline_model_parallel_size=3)
    check(MoESpec.model_validate(spec({"name": "topk"})), execution)


def test_activation_recomputation_is_refused_when_routers_are_built(build):
    from pipelines.megatron.recurrent_router import RecurrentRouter

    router = build(RMOE).decoder.layers[0].mlp.router
    router.config.recompute_granularity = "full"
    with pytest.raises(ValueError, match="recomputation"):
        RecurrentRouter(router.config, _Groups(), recurrent_size=6)


class _Groups:
    tp = cp = tp_cp = tp_dp_cp = None
