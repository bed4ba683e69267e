"""A store with a remote: one table brings one artifact, and a call with nothing to do asks nobody."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflow.clones import SMOKE, clone, command, commit, run_records, store_of, succeeded
from workflow.plan import Plan
from workflow.sharing import Sharing

Snakemake = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

TABLE = "results/tables/gstack/operators.md"
LAZY = {"RETRACE_STORE": "lazy"}
CHANGED = {"moe": {"rmoe": {"recurrent_size": 4}}}


@pytest.fixture(scope="module")
def shared(finished_smoke: Path) -> Path:
    """A repository whose default remote, the folder `remote` beside it, has every artifact."""
    commit(finished_smoke, "Make every table")
    command(finished_smoke, "dvc", "remote", "add", "--default", "team", str(finished_smoke.parent / "remote"))
    commit(finished_smoke, "Set the team's remote")
    command(finished_smoke, "pipelines", "store", "share", "--configfile", SMOKE)
    return finished_smoke


@pytest.fixture
def colleague(shared: Path, tmp_path: Path) -> Path:
    """A fresh clone."""
    return clone(shared, tmp_path / "colleague")


@pytest.fixture
def away(shared: Path) -> None:
    """The remote cannot be reached while the test runs."""
    remote = shared.parent / "remote"
    hidden = remote.rename(remote.with_name("away"))
    yield
    hidden.rename(remote)


def test_one_table_brings_its_papers_artifact_alone_and_is_complete(
    colleague: Path, shared: Path, snakemake: Snakemake
) -> None:
    said = succeeded(snakemake(colleague, TABLE, environment=LAZY))
    assert "Fetching 1 artifact (" in said
    assert "Artifacts: 1 restored from the store, which saved " in said
    assert set(run_records(colleague)) == {"results/papers/gstack"}
    assert (colleague / TABLE).read_bytes() == (shared / TABLE).read_bytes()
    here, there = (sum(size for _, size in store_of(each).cache.objects()) for each in (colleague, shared))
    assert 0 < here < there / 5
    # To the whole graph it is as good as made.
    for environment in (LAZY, {}):
        assert "Nothing to be done" in succeeded(snakemake(colleague, "-n", TABLE, environment=environment))


def test_a_changed_job_brings_what_it_reads_and_no_more(colleague: Path, snakemake: Snakemake) -> None:
    said = succeeded(snakemake(colleague, "results/papers/rmoe", overlay=CHANGED, environment=LAZY))
    assert "Artifacts: 2 computed in " in said
    assert {path: run["provenance"] for path, run in run_records(colleague).items()} == {
        "results/tokens/scaffold_bpe/default/seed0": "restored",
        "results/moe/topk/default/seed0": "restored",
        "results/moe/rmoe/default/seed0": "computed",
        "results/papers/rmoe": "computed",
    }


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("environment", [{}, LAZY])
def test_a_remote_that_is_away_is_one_warning_and_the_jobs_compute(
    colleague: Path, snakemake: Snakemake, environment: dict[str, str]
) -> None:
    corpus = "results/data/prose/seed0"
    said = succeeded(snakemake(colleague, corpus, environment=environment))
    assert said.count("warning: remote team") == said.count("warning: ") == 1
    assert run_records(colleague)[corpus]["provenance"] == "computed"


def test_what_was_spared_its_inputs_and_cannot_be_fetched_stops_the_graph_with_the_remedy(
    colleague: Path, request: pytest.FixtureRequest, snakemake: Snakemake
) -> None:
    command(colleague, "pipelines", "store", "fetch", "--records-only", "--configfile", SMOKE)
    request.getfixturevalue("away")
    done = snakemake(colleague, TABLE, environment=LAZY)
    assert done.returncode != 0
    assert "results/papers/gstack is in the store, and its files could not be fetched" in done.stdout + done.stderr
    assert "RETRACE_STORE=full" in done.stdout + done.stderr
    assert not run_records(colleague)


@pytest.mark.usefixtures("away")
def test_a_dry_run_and_an_up_to_date_call_ask_nothing_of_the_remote(
    colleague: Path, shared: Path, snakemake: Snakemake
) -> None:
    assert "warning" not in succeeded(snakemake(colleague, "-n", "paper_tables"))
    assert "warning" not in succeeded(snakemake(shared, "paper_tables"))
    # All records are here.
    assert "warning" not in succeeded(snakemake(shared, "paper_tables", environment=LAZY))


def test_without_a_remote_lazy_spares_what_is_stored_here(shared: Path, snakemake: Snakemake, tmp_path: Path) -> None:
    folder = clone(shared, tmp_path / "alone")
    command(folder, "dvc", "remote", "default", "--unset")
    command(folder, "dvc", "cache", "dir", str(shared / ".dvc" / "cache"))
    said = succeeded(snakemake(folder, TABLE, environment=LAZY))
    assert "Fetching" not in said
    assert set(run_records(folder)) == {"results/papers/gstack"}


def test_a_spared_artifact_that_turns_out_damaged_says_how_to_compute_it(colleague: Path, snakemake: Snakemake) -> None:
    succeeded(snakemake(colleague, TABLE, environment=LAZY))
    command(colleague, "dvc", "remote", "default", "--unset")
    shutil.rmtree(colleague / "results")
    for md5, size in store_of(colleague).cache.objects():
        damaged = store_of(colleague).cache.path(md5)
        damaged.chmod(0o644)
        damaged.write_bytes(b"x" * size)
    done = snakemake(colleague, TABLE, environment=LAZY)
    assert done.returncode != 0
    assert "is damaged" in done.stdout + done.stderr
    assert "no such file or folder: results/growth" in done.stdout + done.stderr
    assert "RETRACE_STORE=full has it made first" in done.stdout + done.stderr


def test_the_account_tells_computing_from_restoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRACE_STORE", "off")
    monkeypatch.chdir(tmp_path)
    for name, provenance, seconds in (("a", "computed", 1.2), ("b", "restored", 60.4), ("c", "restored", 40.0)):
        (tmp_path / name).mkdir()
        run = {"provenance": provenance, "seconds": seconds}
        (tmp_path / name / "run.json").write_text(json.dumps(run), encoding="utf-8")
    account = Sharing(Plan(), ask=False).account
    assert account(["a", "b", "c"]) == (
        "Artifacts: 1 computed in 1 s, 2 restored from the store, which saved 100 s of computing."
    )
    assert account(["a"]) == "Artifacts: 1 computed in 1 s."
