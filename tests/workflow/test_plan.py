"""The plan: names of variants, shared jobs, identity that follows meaning and nothing else."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.runs.errors import RetraceError
from tests.workflow.plans import changed_stages, plan
from workflow.plan import overridden, relative, setting

BASE = {"adapter": "full", "training": {"lr": 0.001, "train_iters": 10}}


def test_a_setting_names_only_what_differs_from_the_parameters() -> None:
    assert setting(BASE, {}) == "default"
    assert setting(BASE, {"adapter": "full"}) == "default"
    assert setting(BASE, {"training.lr": 0.01, "adapter": "lora"}) == "adapter=lora,training.lr=0.01"


def test_a_setting_that_cannot_name_a_folder_is_refused() -> None:
    with pytest.raises(RetraceError, match="names a folder"):
        setting(BASE, {"adapter": "a/b"})


def test_overrides_reach_nested_keys_and_leave_the_parameters_alone() -> None:
    assert overridden(BASE, {"training.lr": 1.0})["training"] == {"lr": 1.0, "train_iters": 10}
    assert BASE["training"]["lr"] == 0.001


def test_a_multiple_is_taken_of_the_parameter_and_a_whole_number_stays_whole() -> None:
    half = {"training.train_iters": "0.25x", "training.lr": "2x"}
    assert overridden(BASE, half)["training"] == {"lr": 0.002, "train_iters": 3}
    assert setting(BASE, half) == "training.lr=0.002,training.train_iters=3"
    assert setting(BASE, {"training.lr": "1x"}) == "default"
    assert relative({"lr": 0.0004}, {"lr": "0.75x"}) == {"lr": 0.0003}
    with pytest.raises(RetraceError, match=r"2x is a multiple of a number, and params.yaml gives 'full'"):
        overridden(BASE, {"adapter": "2x"})


def test_a_models_tokenizer_takes_its_own_keys_and_is_shared_by_models_that_agree(params: dict, root: Path) -> None:
    planned = plan(params, root)
    half = {"tokenizer.method": "bpe", "tokenizer.vocab_size": "0.5x"}
    size = params["tokenizer"]["train"]["vocab_size"] // 2
    runs = [planned[planned.pretrained("dense", {**half, **more}, 0)] for more in ({}, {"training.lr": 0.5})]
    assert [run.path.split("/")[2:4] for run in runs] == [
        ["dense", f"tokenizer.method=bpe,tokenizer.vocab_size={size}"],
        ["dense", f"tokenizer.method=bpe,tokenizer.vocab_size={size},training.lr=0.5"],
    ]
    assert runs[0].inputs["tokens"] == runs[1].inputs["tokens"] == f"results/tokens/bpe/vocab_size={size}/seed0"
    tokenizer = planned[planned[runs[0].inputs["tokens"]].inputs["tokenizer"]]
    assert tokenizer.path == f"results/tokenizer/bpe/vocab_size={size}/seed0"
    assert tokenizer.spec["vocab_size"] == size
    assert runs[0].spec == planned[planned.pretrained("dense", {}, 0)].spec
    assert planned.pretrained("dense", {"tokenizer.vocab_size": "1x"}, 0) == planned.pretrained("dense", {}, 0)


def test_a_row_of_pretrain_that_names_no_method_is_dense_and_the_same_run_as_one_that_does(
    params: dict, root: Path
) -> None:
    planned = plan(params, root)
    rows = {cell.name: cell for cell in planned.papers["minicpm_wsd"].tables["schedules"].rows}
    assert rows["cosine"].method is None
    assert "results/pretrain/dense/default/seed0" in planned.jobs
    named = planned[planned.pretrained("sltrain", {"method.rank": 4, "training.weight_decay": 0.0}, 0)]
    assert named.path == "results/pretrain/sltrain/method.rank=4,training.weight_decay=0.0/seed0"
    assert named.spec["method"] == {"name": "sltrain", **params["pretrain"]["sltrain"], "rank": 4}
    assert planned["results/pretrain/dense/default/seed0"].spec["method"] == {"name": "dense"}


def test_tokenizers_are_measured_on_another_domain_where_there_is_one(params: dict, root: Path, tmp_path: Path) -> None:
    embedded = plan(params, root)
    measured = embedded["results/vocabulary/bpe/default/seed1"].inputs
    assert (measured["corpus"], measured["other"]) == ("results/data/prose/seed1", "results/data/source/seed0")
    assert embedded["results/data/source/seed0"].spec["domain"] == "source"
    for name in ("novels", "medicine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text(f"words of {name}", encoding="utf-8")
    local = {"data.source": "local", "folders.corpus": str(tmp_path / "novels")}
    assert "other" not in plan(overridden(params, local), root)["results/vocabulary/bpe/default/seed1"].inputs
    local["folders.other_corpus"] = str(tmp_path / "medicine")
    planned = plan(overridden(params, local), root)
    other = planned[planned["results/vocabulary/bpe/default/seed1"].inputs["other"]]
    assert (other.path, other.inputs["folder"]) == ("results/data/other/seed0", str(tmp_path / "medicine"))


def test_a_table_that_needs_a_folder_is_run_only_where_there_is_one(params: dict, root: Path, tmp_path: Path) -> None:
    without = plan(params, root)
    assert without.not_run == {"scaffold_bpe/translation": "folders.translation"}
    assert ("scaffold_bpe", "translation") in without.tables, "its page says why it is empty"
    assert not [path for path in without.jobs if "translation" in path]
    (tmp_path / "train.en").write_text("a dog\n", encoding="utf-8")
    with_pairs = plan(overridden(params, {"folders.translation": str(tmp_path)}), root)
    assert not with_pairs.not_run
    models = [path for path in with_pairs.jobs if path.startswith("results/translation/")]
    assert sorted({path.split("/")[2] for path in models}) == ["bpe", "picky_bpe", "scaffold_bpe"]
    assert len(models) == 3 * params["seeds"]
    for path in models:
        tokenizer = with_pairs[with_pairs[path].inputs["tokenizer"]]
        assert tokenizer.inputs["corpus"] == with_pairs[path].inputs["pairs"] == "results/data/pairs"
        assert tokenizer.spec["vocab_size"] == params["translation"]["tokenizer"]["vocab_size"]
    assert not changed_stages(without, with_pairs) - {
        *("translation/bpe", "translation/scaffold_bpe", "translation/picky_bpe", "data/pairs"),
        *("tokenizer/bpe", "tokenizer/scaffold_bpe", "tokenizer/picky_bpe", "papers/scaffold_bpe", "papers/claims"),
    }


def test_every_cell_of_every_table_is_planned_with_all_its_seeds(params: dict, root: Path) -> None:
    planned = plan(params, root)
    for key, paper in planned.papers.items():
        tables = {table["name"]: table for table in planned[f"results/papers/{key}"].spec["tables"]}
        for name, table in paper.tables.items():
            cells = {(cell["row"], cell["seed"]) for cell in tables[name]["cells"]}
            seeds = () if f"{key}/{name}" in planned.not_run else table.seeds
            assert cells == {(row.name, seed) for row in table.rows for seed in seeds}
            assert len(table.seeds) >= 3


def test_the_chain_is_one_line_of_descent(params: dict, root: Path) -> None:
    planned = plan(params, root)
    finetuned = planned["results/continual/migu/default/seed0"]
    upcycled = planned[planned[finetuned.inputs["model"]].inputs["checkpoint"]]
    grown = planned[upcycled.inputs["dense"]]
    base = planned[grown.inputs["base"]]
    assert upcycled.spec["init"] == "upcycle"
    assert grown.spec["method"]["name"] == "stack"
    assert base.path == "results/pretrain/dense/default/seed0"


def test_inputs_of_every_job_are_planned_or_lie_in_the_checkout(params: dict, root: Path) -> None:
    planned = plan(params, root)
    for job in planned.jobs.values():
        for _, path in job.input_pairs():
            assert path in planned.jobs or not path.startswith("results/"), (job.path, path)


@pytest.mark.parametrize(
    ("key", "value", "changed", "kept"),
    [
        ("moe.rmoe.recurrent_size", 32, {"moe/rmoe"}, {"moe/topk", "growth/stack"}),
        ("continual.finetune.lr", 0.5, {"continual/ft", "continual/migu"}, {"moe/topk", "export/moe"}),
        ("growth.stack.growth_factor", 3, set(), {"growth/stack"}),
        ("evaluate.tasks.max_items", 50, {"evaluate/tasks", "evaluate/moe"}, {"moe/topk", "continual/ft"}),
    ],
)
def test_a_changed_parameter_changes_the_keys_downstream_and_no_others(
    params: dict, root: Path, key: str, value: object, changed: set[str], kept: set[str]
) -> None:
    found = changed_stages(plan(params, root), plan(overridden(params, {key: value}), root))
    assert changed <= found
    assert not kept & found


def test_fewer_seeds_only_remove_jobs(params: dict, root: Path) -> None:
    assert not changed_stages(plan(params, root), plan(overridden(params, {"seeds": 2}), root)) - {
        f"papers/{key}" for key in [*params["papers"], "claims"]
    }


def test_the_checkouts_place_is_not_part_of_any_command_or_key(
    params: dict, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = plan(params, root)
    (tmp_path / "elsewhere").symlink_to(root)
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = plan(params, Path.cwd())
    assert {p: j.key for p, j in here.jobs.items()} == {p: j.key for p, j in there.jobs.items()}


def test_a_local_corpus_may_move_and_its_place_reaches_the_command_whole(
    params: dict, root: Path, tmp_path: Path
) -> None:
    plans = []
    for name in ("here", "over there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text("the same words", encoding="utf-8")
        local = {"data.source": "local", "folders.corpus": str(tmp_path / name)}
        plans.append(plan(overridden(params, local), root))
    assert {path: job.key for path, job in plans[0].jobs.items()} == {p: j.key for p, j in plans[1].jobs.items()}
    words = shlex.split(plans[1]["results/data/prose/seed0"].options)
    assert words[words.index("--folder") + 1] == str(tmp_path / "over there")
    assert json.loads(words[words.index("--spec") + 1])["source"] == "local"


def test_the_runs_have_a_key_together_that_each_of_them_is_in(params: dict, root: Path) -> None:
    base = plan(params, root)
    keys = {base.runs_key}
    for changed in ({"moe.rmoe.recurrent_size": 32}, {"seeds": 2}, {"papers": params["papers"][:-1]}):
        keys.add(plan(overridden(params, changed), root).runs_key)
    assert len(keys) == 4
    reordered = overridden(params, {"papers": params["papers"][::-1]})
    assert plan(reordered, root).runs_key == base.runs_key


def test_planning_loads_neither_torch_nor_transformers_nor_mlflow(root: Path) -> None:
    code = (
        "import sys, yaml; from workflow.papers import plan_papers\n"
        "plan_papers(yaml.safe_load(open('params.yaml')), '.')\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'pandas', 'matplotlib', 'megatron'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unplanned_artifact_is_refused_with_the_remedy(params: dict, root: Path) -> None:
    with pytest.raises(RetraceError, match="name it in a paper's grid"):
        plan(params, root)["results/moe/topk/default/seed99"]


def test_forecasts_and_fits_over_positions_read_the_runs_of_other_papers(params: dict, root: Path) -> None:
    planned = plan({**params, "papers": ["scaffold_bpe", "gstack", "temporal_scaling"]}, root)
    trained = [
        path for path, job in planned.jobs.items() if job.verb == "train" and job.stage in ("pretrain", "growth")
    ]
    without = plan({**params, "papers": ["scaffold_bpe", "gstack"]}, root)
    assert set(trained) <= set(without.jobs)
    forecast = planned["results/forecast/temporal_law/default/seed1"]
    assert forecast.inputs["run"] == "results/pretrain/dense/default/seed1"
    assert forecast.spec == {"cut": 0.5, "method": {"name": "temporal_law", "floor": "learning_rate"}}
    assert planned["results/positions/growth/stack/default/seed2"].inputs["run"] == "results/growth/stack/default/seed2"
    cells = {
        (table["name"], cell["row"], cell["seed"]): cell
        for table in planned["results/papers/temporal_scaling"].spec["tables"]
        for cell in table["cells"]
    }
    runs = planned["results/papers/temporal_scaling"].inputs["run"]
    profile = cells["positions", "stack", 2]
    assert [runs[place] for place in (profile["run"], *profile["extra"])] == [
        "results/positions/growth/stack/default/seed2",
        "results/growth/stack/default/seed2",
    ]
    assert runs[cells["forecast", "power_law", 0]["run"]] == "results/forecast/power_law/default/seed0"


def test_a_forecast_takes_the_keys_of_the_training_it_forecasts(params: dict, root: Path) -> None:
    planned = plan(params, root)
    path = planned.forecast("power_law", {"cut": 0.3, "pretrain.training.lr": 0.001}, 0)
    assert path == "results/forecast/power_law/cut=0.3,pretrain.training.lr=0.001/seed0"
    assert planned[path].spec["cut"] == 0.3
    assert planned[str(planned[path].inputs["run"])].spec["training"]["lr"] == 0.001
