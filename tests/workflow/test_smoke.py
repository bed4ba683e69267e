"""The whole graph at the smoke scale, run once: every stage real, every promise about its artifacts."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmarks.graph import copy_checkout
from pipelines.runs.methods import list_methods
from workflow.papers import PaperPlan, plan_papers

Snakemake = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

VERDICTS = {"reproduced", "trend", "contradicted", "inconclusive", "not run at this scale"}


@pytest.fixture(scope="module")
def smoke(smoke_run: tuple[Path, str], finished_smoke: Path) -> tuple[Path, str]:
    """A checkout in which the main job has run, and what the run said."""
    return finished_smoke, smoke_run[1]


@pytest.fixture(scope="module")
def results(smoke: tuple[Path, str]) -> Path:
    return smoke[0] / "results"


@pytest.fixture(scope="module")
def plan(smoke: tuple[Path, str]) -> PaperPlan:
    config = yaml.safe_load((smoke[0] / "params.yaml").read_text(encoding="utf-8"))
    overlay = yaml.safe_load((smoke[0] / "params" / "smoke.yaml").read_text(encoding="utf-8"))
    return plan_papers(_merged(config, overlay), str(smoke[0]))


def test_every_table_of_every_paper_is_there_in_three_formats(plan: PaperPlan, results: Path) -> None:
    assert {"scaffold_bpe", "gstack", "temporal_scaling", "rmoe", "migu", "chain"} <= set(plan.papers)
    for key, paper in plan.papers.items():
        for table in paper.tables:
            for suffix in ("md", "csv", "tex"):
                assert (results / "tables" / key / f"{table}.{suffix}").stat().st_size > 0


def test_every_claim_has_a_verdict_and_one_seed_concludes_nothing(plan: PaperPlan, results: Path) -> None:
    claims = [claim.id for paper in plan.papers.values() for claim in paper.claims]
    with (results / "claims.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["id"] for row in rows) == sorted(claims)
    assert {row["verdict"] for row in rows} <= VERDICTS - {"reproduced", "contradicted"}
    assert (results / "claims.md").stat().st_size > 0


def test_the_end_of_the_run_says_where_the_tables_are_and_one_line_a_claim(
    smoke: tuple[Path, str], results: Path
) -> None:
    with (results / "claims.csv").open(encoding="utf-8", newline="") as file:
        claims = [row["says"] for row in csv.DictReader(file)]
    assert "results/tables" in smoke[1]
    for says in claims:
        assert says in smoke[1]


def test_every_job_has_the_identity_that_was_planned(smoke: tuple[Path, str], plan: PaperPlan) -> None:
    for path, job in plan.jobs.items():
        record = json.loads((smoke[0] / path / "run.json").read_text(encoding="utf-8"))
        assert record["key"] == job.key, path
        assert record["spec"] == job.spec, path
        assert json.loads((smoke[0] / path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["final"]


def test_every_mixture_of_experts_was_trained_with_expert_parallelism_over_two_gloo_ranks(
    smoke: tuple[Path, str], plan: PaperPlan
) -> None:
    jobs = [path for path, job in plan.jobs.items() if job.stage == "moe"]
    assert len(jobs) >= 3
    for path in jobs:
        record = json.loads((smoke[0] / path / "run.json").read_text(encoding="utf-8"))
        assert (record["expert_model_parallel_size"], record["world_size"], record["backend"]) == (2, 2, "gloo"), path


def test_every_method_of_every_stage_ran(smoke: tuple[Path, str], results: Path) -> None:
    for stage in ("tokenizer", "pretrain", "growth", "moe", "continual", "forecast"):
        ran = {record.parents[2].name for record in results.glob(f"{stage}/*/*/*/run.json")}
        assert ran == set(list_methods(stage)), stage


def test_every_run_is_mirrored_into_mlflow_with_its_tags(smoke: tuple[Path, str], results: Path) -> None:
    import mlflow

    ids = json.loads((results / "mlflow" / "runs.json").read_text(encoding="utf-8"))
    records = [json.loads(p.read_text()) for p in results.rglob("run.json") if "papers" not in p.parts]
    assert sorted(ids.values()) == sorted(record["mlflow_run_id"] for record in records)
    client = mlflow.MlflowClient(f"sqlite:///{smoke[0] / 'mlflow.db'}")
    path = "results/moe/rmoe/default/seed0"
    run = client.get_run(ids[path])
    record = json.loads((smoke[0] / path / "run.json").read_text(encoding="utf-8"))
    assert run.data.tags["key"] == record["key"]
    assert (run.data.tags["stage"], run.data.tags["method"], run.data.tags["seed"]) == ("moe", "rmoe", "0")
    assert "rmoe" in run.data.tags["papers"]
    assert run.data.metrics["val_loss"] > 0
    client._tracking_client.store.engine.dispose()


def test_a_second_run_does_nothing(smoke: tuple[Path, str], snakemake: Snakemake) -> None:
    done = snakemake(smoke[0], "paper_tables")
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_cold_run_elsewhere_gives_byte_identical_tables_and_claims(
    results: Path, snakemake: Snakemake, tmp_path: Path
) -> None:
    folder = copy_checkout(tmp_path / "another")
    done = snakemake(folder, "paper_tables")
    assert done.returncode == 0, done.stderr[-4000:]
    first = {path.relative_to(results): path.read_bytes() for path in _published(results)}
    second = {path.relative_to(folder / "results"): path.read_bytes() for path in _published(folder / "results")}
    assert sorted(first) == sorted(second)
    assert [path for path in first if first[path] != second[path]] == []


def test_nothing_half_written_is_left(results: Path) -> None:
    assert not list(results.rglob("*.partial"))


def _published(results: Path) -> list[Path]:
    return [path for part in ("tables", "claims.*") for path in _files(results, part)]


def _files(results: Path, part: str) -> list[Path]:
    found = [path for top in results.glob(part) for path in ([top] if top.is_file() else top.rglob("*"))]
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def _merged(base: dict, overlay: dict) -> dict:
    merged = dict(base)
    for key, value in overlay.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
