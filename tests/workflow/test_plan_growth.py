"""The plan of growth: what each operator starts from, at what cost, and what a V-cycle's levels hang on."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from pipelines.growth.learning import learning_cost
from pipelines.growth.levels import coalesced_shape
from pipelines.growth.slices import Shape
from pipelines.megatron.flops import training_flops_per_token
from pipelines.megatron.spec import ModelSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method, method_card
from tests.workflow.plans import changed_stages, plan
from workflow.papers import PaperPlan
from workflow.plan import PlannedJob, overridden


def test_a_grown_models_base_takes_its_own_keys_and_keeps_its_optimizer_where_it_is_taken_over(
    params: dict, root: Path
) -> None:
    planned = plan(params, root)
    late = planned[planned.grown("stack", {"pretrain.train_bytes": "2x"}, 0)]
    base = planned[late.inputs["base"]]
    assert base.spec["train_bytes"] == 2 * params["pretrain"]["train_bytes"]
    assert (late.path.split("/")[3], base.path.split("/")[3]) == (
        "pretrain.train_bytes=2200000",
        "train_bytes=2200000",
    )
    copied = planned[planned.grown("stack", {"optimizer_policy": "copy"}, 0)]
    assert planned[copied.inputs["base"]].spec["training"]["save_optim"]
    assert not planned[planned["results/growth/stack/default/seed0"].inputs["base"]].spec["training"]["save_optim"]
    with pytest.raises(RetraceError, match=r"pretrain\.train_bytes: scratch starts from no base model"):
        planned.grown("scratch", {"pretrain.train_bytes": 0}, 0)


def test_growth_in_two_hops_is_grown_from_a_grown_model(params: dict, root: Path) -> None:
    planned = plan(params, root)
    hops = {"base.model.num_layers": 4, "base.method.growth_factor": 2, "base.training.train_iters": "0.5x"}
    second = planned[planned.grown("stack", {"method.growth_factor": 2, "model.num_layers": 8, **hops}, 0)]
    first = planned[second.inputs["base"]]
    assert (first.stage, first.spec["model"]["num_layers"], first.spec["method"]["growth_factor"]) == ("growth", 4, 2)
    assert first.spec["training"]["train_iters"] == params["growth"]["training"]["train_iters"] // 2
    assert first.inputs["base"] == "results/pretrain/dense/default/seed0"
    kept = planned[planned.grown("stack", {"optimizer_policy": "copy", **hops}, 0)]
    between = planned[kept.inputs["base"]]
    assert between.spec["training"]["save_optim"]
    assert between.spec["optimizer_policy"] == "fresh"


def budget(job: PlannedJob, vocab_size: int) -> float:
    """FLOPs of the scratch run that a growth is compared with."""
    training, model = job.spec["training"], ModelSpec.model_validate(job.spec["model"])
    tokens = training["train_iters"] * training["global_batch_size"] * model.seq_length
    return tokens * training_flops_per_token(model, vocab_size)


def cost_before(planned: PaperPlan, job: PlannedJob, vocab_size: int) -> float:
    """FLOPs of a grown model's base, by three bytes a token, and of learning how to grow it."""
    base = planned[str(job.inputs["base"])]
    while base.verb != "train":
        # Of a V-cycle: the levels' own steps cost nothing.
        base = planned[str(base.inputs.get("input") or base.inputs["after"])]
    shape, target = (ModelSpec.model_validate(each.spec["model"]) for each in (base, job))
    method = load_method("growth", job.spec["method"])
    learning = learning_cost(method, Shape(shape), Shape(target), vocab_size).flops
    if base.stage == "growth":
        return learning + budget(base, vocab_size)
    return learning + base.spec["train_bytes"] / 3 * training_flops_per_token(shape, vocab_size)


def base_shape(planned: PaperPlan, job: PlannedJob) -> ModelSpec:
    """Shape of what a growth starts from."""
    base = planned[str(job.inputs["base"])]
    if base.verb == "train":
        return ModelSpec.model_validate(base.spec["model"])
    if base.verb == "interpolate":
        return ModelSpec.model_validate(planned[str(base.inputs["before"])].spec["model"])
    assert base.verb == "coalesce"
    large = ModelSpec.model_validate(planned[str(base.inputs["input"])].spec["model"])
    return coalesced_shape(Shape(large), base.spec["depth"], base.spec["width"]).model


@pytest.mark.parametrize("overlays", [(), ("smoke",), ("small",), ("small", "growth")])
def test_every_growth_of_every_table_reaches_its_size_and_has_steps_left_to_train(
    params: dict, root: Path, tmp_path: Path, overlays: tuple[str, ...]
) -> None:
    (tmp_path / "text.txt").write_text("some words", encoding="utf-8")
    given = copy.deepcopy(params)
    for overlay in overlays:
        update_config(given, yaml.safe_load((root / "params" / f"{overlay}.yaml").read_text(encoding="utf-8")))
    given["folders"] = dict.fromkeys(("corpus", "other_corpus"), str(tmp_path))
    given["papers"] = ["gstack", "vcycle", *(["gstack_ablations"] if "small" in overlays else [])]
    planned = plan(given, root)
    vocab_size = given["tokenizer"]["train"]["vocab_size"]
    grown = [
        job for job in planned.jobs.values() if (job.stage, job.verb) == ("growth", "train") and "base" in job.inputs
    ]
    assert len(grown) > 10
    for job in grown:
        if method_card("growth", job.spec["method"]["name"]).axis != "none":
            base = base_shape(planned, job)
            method = load_method("growth", job.spec["method"])
            assert method.target(base) == ModelSpec.model_validate(job.spec["model"]), job.path
            assert cost_before(planned, job, vocab_size) < 0.95 * budget(job, vocab_size), job.path


def test_what_grows_in_width_starts_from_a_base_as_deep_and_narrower(params: dict, root: Path) -> None:
    planned = plan(params, root)
    wide = planned[planned.grown("direct_width", {}, 0)]
    base = planned[wide.inputs["base"]]
    for width in ("hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups"):
        assert 2 * base.spec["model"][width] == wide.spec["model"][width]
    assert base.spec["model"]["num_layers"] == wide.spec["model"]["num_layers"]
    assert wide.spec["model"] == planned["results/growth/scratch/default/seed0"].spec["model"]
    zero = planned[planned.grown("zero_width", {"model.layernorm_epsilon": "0.5x"}, 0)]
    assert zero.inputs["base"] == base.path
    assert zero.spec["model"]["layernorm_epsilon"] == base.spec["model"]["layernorm_epsilon"] / 2
    with pytest.raises(RetraceError, match=r"growth\.direct_width\.growth_factor is 3, .* no multiple of it"):
        plan(overridden(params, {"growth.direct_width.growth_factor": 3}), root)


def test_what_grows_along_both_axes_starts_from_a_base_as_much_smaller(params: dict, root: Path) -> None:
    planned = plan(params, root)
    grown = planned[planned.grown("both_axes", {"method.growth_factor": 3}, 0)]
    base = planned[grown.inputs["base"]].spec["model"]
    assert 3 * base["num_layers"] == grown.spec["model"]["num_layers"]
    assert 2 * base["hidden_size"] == grown.spec["model"]["hidden_size"]


def test_a_v_cycle_goes_down_and_up_and_mixes_what_comes_back(params: dict, root: Path) -> None:
    planned = plan(params, root)
    keys = {"method.growth_factor": 1, "pretrain.train_bytes": "0.1x", "cycle.training.train_iters": "0.5x"}
    last = planned[planned.grown("stack", keys, 1)]
    mixed = planned[last.inputs["base"]]
    again = planned[mixed.inputs["after"]]
    small = planned[again.inputs["input"]]
    down = planned[small.inputs["base"]]
    large = planned[down.inputs["input"]]
    assert [job.verb for job in (last, mixed, again, small, down, large)] == [
        *("train", "interpolate", "decoalesce", "train", "coalesce", "train")
    ]
    assert mixed.inputs["before"] == large.path, "no model that has seen more than the one that went down"
    assert large.spec["model"] == last.spec["model"]
    assert large.spec["train_bytes"] == params["pretrain"]["train_bytes"] // 10
    for size in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups"):
        assert 2 * small.spec["model"][size] == large.spec["model"][size]
    assert small.spec["training"]["train_iters"] == last.spec["training"]["train_iters"] // 2
    other = planned[planned.grown("stack", {**keys, "cycle.interpolation_coeff": 1.0}, 1)]
    assert planned[other.inputs["base"]].inputs["after"] == again.path, "the same levels below"
    assert planned[other.inputs["base"]].spec["interpolation_coeff"] == 1.0
    assert "cycle.level" in last.path
    copied = plan(overridden(params, {"growth.optimizer_policy": "copy", "growth.data_policy": "restart"}), root)
    assert copied[copied.grown("stack", keys, 1)].key == last.key, "no level has moments of another"
    for wrong, said in (
        ({"optimizer_policy": "copy"}, "optimizer_policy: copy: every level of a V-cycle begins as fresh"),
        ({"model.num_layers": 8}, "model.num_layers: a V-cycle's large model"),
        ({"base.model.num_layers": 4}, "base.model.num_layers: a row grows in two hops or by a V-cycle"),
    ):
        with pytest.raises(RetraceError, match=said):
            planned.grown("stack", {**keys, **wrong}, 1)
    with pytest.raises(RetraceError, match=r"cycle\.depth is 4, and model.num_layers 6 is no multiple of it"):
        planned.grown("stack", {**keys, "cycle.depth": 4}, 1)


def test_scratch_is_not_trained_again_for_another_policy_of_growth(params: dict, root: Path) -> None:
    found = changed_stages(plan(params, root), plan(overridden(params, {"growth.schedule_policy": "rewarm"}), root))
    assert "growth/stack" in found
    assert "growth/scratch" not in found
