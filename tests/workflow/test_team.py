"""Two people and a remote: what one has computed the other gets, and computes only what is really another."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.workflow.clones import (
    SMOKE,
    clone,
    command,
    commit,
    computed,
    git,
    plan,
    published,
    run_records,
    store_of,
    succeeded,
)
from workflow.plan import overridden

Snakemake = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

# What the older commit says, and what a colleague may try.
PARAMETER, VALUE = "moe.rmoe.recurrent_size", 4
# Snakemake's mark, and the run record, in which the mirror has noted MLflow's id after it was stored.
OF_THIS_FOLDER = {".snakemake_timestamp", "run.json"}
OVERLAY = {"moe": {"rmoe": {"recurrent_size": VALUE}}}


@dataclass(frozen=True)
class Team:
    """A repository that two people clone, and the remote they share.

    Attributes:
        first: the clone in which everything has been computed and shared.
        remote: the folder that ``dvc remote`` names.
        older: a commit before the present one, with another value of one parameter.
        places: where clones go.
    """

    first: Path
    remote: Path
    older: str
    places: Path

    def clone(self, name: str) -> Path:
        """A fresh clone: files of git, and nothing else."""
        return clone(self.first, self.places / name)


def content(artifact: Path) -> dict[str, bytes]:
    """Every file of an artifact but those of the folder it lies in."""
    files = [path for path in artifact.rglob("*") if path.is_file() and path.name not in OF_THIS_FOLDER]
    return {str(path.relative_to(artifact)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def team(finished_smoke: Path, tmp_path_factory: pytest.TempPathFactory) -> Team:
    places = tmp_path_factory.mktemp("team")
    first = finished_smoke.rename(places / "first")
    remote = places / "remote"
    smoke = (first / SMOKE).read_text(encoding="utf-8")
    (first / SMOKE).write_text(yaml.safe_dump(overridden(yaml.safe_load(smoke), {PARAMETER: VALUE})), encoding="utf-8")
    older = commit(first, "Try a small recurrent state")
    (first / SMOKE).write_text(smoke, encoding="utf-8")
    command(first, "dvc", "remote", "add", "--default", "team", str(remote))
    command(first, "pipelines", "store", "publish", "--configfile", SMOKE)
    commit(first, "Go back to the larger state; set the team's remote; publish")
    command(first, "pipelines", "store", "share", "--configfile", SMOKE)
    return Team(first, remote, older, places)


@pytest.fixture(scope="module")
def second(team: Team, snakemake: Snakemake) -> Path:
    """A fresh clone in which the main job has run once."""
    folder = team.clone("second")
    succeeded(snakemake(folder, "paper_tables"))
    return folder


def test_on_a_fresh_clone_the_main_job_computes_nothing_and_gives_the_same_bytes(team: Team, second: Path) -> None:
    assert set(run_records(second)) == set(plan(second).jobs)
    assert computed(second) == set()
    assert published(second) == published(team.first)
    assert len(published(second)) > 10


def test_afterwards_there_is_nothing_to_do(second: Path, snakemake: Snakemake) -> None:
    assert "Nothing to be done" in succeeded(snakemake(second, "-n", "paper_tables"))


def test_a_restored_artifact_tells_of_the_run_that_computed_it(team: Team, second: Path) -> None:
    origin = run_records(team.first)
    of_the_restoring = {"provenance", "restored_at"}
    for path, record in run_records(second).items():
        assert record["restored_at"]
        expected = {name: value for name, value in origin[path].items() if name not in of_the_restoring}
        assert {name: value for name, value in record.items() if name not in of_the_restoring} == expected, path
    assert run_records(second)["results/moe/rmoe/default/seed0"]["mlflow_run_id"]


def test_a_changed_parameter_restores_all_above_it_and_computes_exactly_the_rest(
    team: Team, snakemake: Snakemake
) -> None:
    folder = team.clone("changed")
    succeeded(snakemake(folder, "paper_tables", overlay=OVERLAY))
    asked, known = plan(folder, {PARAMETER: VALUE}), {job.key for job in plan(folder).jobs.values()}
    others = {path for path, job in asked.jobs.items() if job.key not in known}
    assert "results/moe/rmoe/default/seed0" in others
    assert computed(folder) == others
    assert set(run_records(folder)) == set(asked.jobs)
    tables_of_the_change = published(folder)

    # Put back, the tables of before come out of the store.
    succeeded(snakemake(folder, "paper_tables"))
    assert computed(folder) == set()
    assert published(folder) == published(team.first)

    # And so does what an older commit says.
    git(folder, "checkout", "--quiet", team.older)
    succeeded(snakemake(folder, "paper_tables"))
    assert computed(folder) == set()
    assert published(folder) == tables_of_the_change
    assert tables_of_the_change != published(team.first)


def test_one_table_of_a_lazy_store_brings_no_model_with_it(team: Team, snakemake: Snakemake) -> None:
    folder = team.clone("lazy")
    succeeded(snakemake(folder, "results/tables/gstack/operators.md", environment={"RETRACE_STORE": "lazy"}))
    assert published(folder).items() <= published(team.first).items()
    paper = store_of(folder).record(plan(folder)["results/papers/gstack"].key)
    assert paper is not None
    here = {md5 for md5, _ in store_of(folder).cache.objects()}
    assert here <= {each.md5 for each in paper.files} | {paper.tree}
    assert set(run_records(folder)) == {"results/papers/gstack"}


def test_dvc_alone_gives_a_commit_the_artifacts_its_tables_were_made_from(team: Team) -> None:
    folder = team.clone("reader")
    command(folder, "dvc", "pull", "published.dvc")
    assert set(run_records(folder)) == set(plan(folder).jobs)
    for path in plan(folder).jobs:
        assert content(folder / path) == content(team.first / path), path


def test_two_people_who_compute_the_same_jobs_at_once_both_succeed_and_leave_one_record(
    team: Team, snakemake: Snakemake
) -> None:
    cache = team.places / "shared_cache"
    folders = [team.clone(name) for name in ("one", "another")]
    for folder in folders:
        command(folder, "dvc", "cache", "dir", "--local", str(cache))
        command(folder, "dvc", "remote", "remove", "team")
    target = "results/tokenizer/bpe/default/seed0"
    with ThreadPoolExecutor() as both:
        for done in both.map(lambda folder: snakemake(folder, target), folders):
            succeeded(done)
    store = store_of(folders[0])
    keys = Counter(record.key for record in store.records())
    assert keys == Counter(plan(folders[0])[path].key for path in ("results/data/prose/seed0", target))
    assert all(store.cache.is_sound(each.md5) for record in store.records() for each in record.files)
    assert not list(cache.rglob("*.tmp"))
    artifacts = [folder / target / "tokenizer.json" for folder in folders]
    assert artifacts[0].read_bytes() == artifacts[1].read_bytes()
