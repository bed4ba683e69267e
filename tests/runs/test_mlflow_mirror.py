"""The MLflow mirror: complete, idempotent, unseen by Snakemake, and never in a pipeline's way."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.runs import mlflow_mirror
from pipelines.runs.cache import Cache, CacheSettings
from pipelines.runs.store import Store

LINES = [{"step": 1, "loss": 3.0, "load": [0.5, 0.25]}, {"step": 2, "loss": 2.0, "load": [0.5, 0.5]}]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared database; making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        mlflow_mirror.prepare.main([], standalone_mode=False)
    assert path.exists()
    return path


@pytest.fixture
def mirror(tmp_path: Path, empty_database: Path, monkeypatch, capfd):
    """Run ``runs mirror`` into this test's own database; returns what it said."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")

    def mirror(*arguments, uri=f"sqlite:///{tmp_path}/mlflow.db") -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        capfd.readouterr()
        mlflow_mirror.mirror.main([str(each) for each in arguments], standalone_mode=False)
        return capfd.readouterr().err

    return mirror


@pytest.fixture
def client(tmp_path: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


def mlflow_id(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["mlflow_run_id"]


def test_a_copy_has_params_every_step_tags_and_its_paper_and_is_made_once(tmp_path, make_run, mirror, client):
    results = tmp_path / "results"
    run = make_run(results / "growth" / "stack" / "seed1", key="k1", lines=LINES, final={"val_loss": 1.5, "note": "n"})
    restored = Path(shutil.copytree(run, tmp_path / "elsewhere" / "run"))
    papers = tmp_path / "papers.json"
    papers.write_text(json.dumps({"gstack": [str(run)], "chain": [str(run)]}))
    said = mirror(results, tmp_path / "elsewhere", "--papers", papers, "--out", tmp_path / "ids.json")
    assert said.startswith("2 of 2 runs are in MLflow")
    said = mirror(results)
    assert said.startswith("1 of 1 runs are in MLflow")

    # A restored artifact points at the run that computed it.
    assert mlflow_id(run) == mlflow_id(restored)
    assert json.loads((tmp_path / "ids.json").read_text()) == {str(restored): mlflow_id(run), str(run): mlflow_id(run)}
    (experiment,) = [each for each in client.search_experiments() if each.name == "retrace"]
    copies = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert len(copies) == 2, "the run and its paper's parent"
    copy = client.get_run(mlflow_id(run))
    assert copy.info.status == "FINISHED"
    assert copy.info.end_time - copy.info.start_time == 10_000
    assert copy.data.params == {"method.name": "stack", "method.growth_factor": "4", "seed": "1"}
    wanted = {
        "key": "k1",
        "stage": "growth",
        "method": "stack",
        "seed": "1",
        "commit": "abc+",
        "papers": "gstack,chain",
    }
    assert wanted.items() <= copy.data.tags.items()
    assert copy.data.tags["dataset"] == "t" * 64
    assert copy.data.tags["mlflow.parentRunId"] == copies["gstack"].info.run_id
    loss = client.get_metric_history(mlflow_id(run), "loss")
    assert [(each.step, each.value) for each in loss] == [(1, 3.0), (2, 2.0)]
    assert [each.value for each in client.get_metric_history(mlflow_id(run), "load.1")] == [0.25, 0.5]
    assert copy.data.metrics["val_loss"] == 1.5
    assert copy.data.metrics["seconds"] == 10.0


KEY = "a1" * 32


def test_the_id_travels_with_the_stored_artifact_to_whoever_restores_it(
    tmp_path, make_run, mirror, client, monkeypatch
):
    store = Store(Cache(CacheSettings(tmp_path / "cache")), tmp_path)
    monkeypatch.setattr(mlflow_mirror, "open_store", lambda: store)
    run = make_run(tmp_path / "results" / "run", key=KEY, lines=LINES, final={"val_loss": 1.5})
    record = store.put(run, json.loads((run / "run.json").read_text()))
    assert record is not None
    assert record.run["mlflow_run_id"] is None
    mirror(tmp_path / "results")
    noted = store.record(KEY)
    assert noted is not None
    store.restore(noted, tmp_path / "elsewhere" / "run")
    assert mlflow_id(tmp_path / "elsewhere" / "run") == mlflow_id(run)
    mirror(tmp_path / "elsewhere")
    assert mlflow_id(tmp_path / "elsewhere" / "run") == mlflow_id(run)
    (experiment,) = (each for each in client.search_experiments() if each.name == "retrace")
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_a_restored_run_that_the_server_does_not_know_is_copied_and_names_the_run_that_computed_it(
    tmp_path, make_run, mirror, client, monkeypatch
):
    store = Store(Cache(CacheSettings(tmp_path / "cache")), tmp_path)
    monkeypatch.setattr(mlflow_mirror, "open_store", lambda: store)
    run = make_run(tmp_path / "computed", key=KEY, lines=LINES, final={}, mlflow_run_id="of-another-server")
    record = store.put(run, json.loads((run / "run.json").read_text()))
    assert record is not None
    store.restore(record, tmp_path / "results" / "run")
    for _ in range(2):
        mirror(tmp_path / "results", "--out", tmp_path / "ids.json")
        (copied,) = json.loads((tmp_path / "ids.json").read_text()).values()
        assert mlflow_id(tmp_path / "results" / "run") == "of-another-server"
        copy = client.get_run(copied)
        assert copy.data.tags["restored_from_run"] == "of-another-server"
        assert copy.data.tags["provenance"] == "restored"
        assert store.record(KEY) == record, "a copy is not the run that computed it"


def test_a_copy_cut_short_is_filled_again_under_its_id(tmp_path, make_run, mirror, client):
    run = make_run(tmp_path / "results" / "run", key="k1", lines=LINES, final={"val_loss": 1.5})
    experiment = client.get_experiment_by_name("retrace")
    half = client.create_run(experiment.experiment_id, tags={"key": "k1"})
    client.log_metric(half.info.run_id, "loss", 3.0, step=1)
    mirror(tmp_path / "results")
    assert mlflow_id(run) == half.info.run_id
    copy = client.get_run(half.info.run_id)
    assert copy.info.status == "FINISHED"
    assert copy.data.metrics["val_loss"] == 1.5


def test_one_broken_run_keeps_no_other_from_being_copied(tmp_path, make_run, mirror):
    good = make_run(tmp_path / "results" / "good", lines=LINES)
    broken = make_run(tmp_path / "results" / "broken")
    (broken / "metrics.jsonl").unlink()
    said = mirror(tmp_path / "results")
    assert "1 of 2 runs are in MLflow" in said
    assert "warning: MLflow: 1 runs were not copied" in said
    assert "python -m pipelines runs mirror" in said
    assert mlflow_id(good) is not None
    assert mlflow_id(broken) is None


def test_an_unreachable_server_is_a_warning_with_the_remedy_and_no_failure(tmp_path, make_run, mirror):
    run = make_run(tmp_path / "results" / "run")
    said = mirror(tmp_path / "results", uri="http://127.0.0.1:9")
    assert "0 of 1 runs" in said
    assert "To copy them again: python -m pipelines runs mirror" in said
    assert "Traceback" not in said
    assert mlflow_id(run) is None


@pytest.mark.slow
def test_preparing_twice_at_once_leaves_one_whole_database(tmp_path, run_cli):
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda _: run_cli("runs", "prepare", env=uri), range(2)):
            assert "warning" not in done.stderr
    assert [each.name for each in tmp_path.iterdir() if "mlflow" in each.name] == ["mlflow.db"]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT name FROM experiments WHERE name = 'retrace'").fetchall() == [("retrace",)]


def test_a_prepared_database_is_recognised_without_importing_mlflow(empty_database, root):
    program = (
        "import sys\n"
        "from pipelines.runs.mlflow_mirror import prepare\n"
        "prepare.main([], standalone_mode=False)\n"
        "print('mlflow' in sys.modules)\n"
    )
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{empty_database}"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env={**os.environ, **uri}, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_snakemake_sees_no_change_after_mirroring(tmp_path, make_run, mirror):
    source = make_run(tmp_path / "source", lines=LINES)
    (tmp_path / "Snakefile").write_text(
        f"rule run:\n    output: directory('results/run')\n    shell: 'cp -r {source} {{output}}'\n"
        "rule table:\n    input: 'results/run'\n    output: 'table'\n    shell: 'cp {input}/metrics.jsonl {output}'\n"
    )

    def snakemake(*arguments: str) -> str:
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--nocolor", "table", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    snakemake()
    # File systems with coarse clocks: a later write must be visibly later.
    time.sleep(0.05)
    mirror(tmp_path / "results")
    assert mlflow_id(tmp_path / "results" / "run") is not None
    assert "Nothing to be done" in snakemake("-n")
