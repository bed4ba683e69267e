"""The team's store on S3: shared from one clone, restored in another, by way of a server that goes away in between."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.graph import copy_checkout
from tests.workflow.clones import SMOKE, clone, command, commit, computed, run_records, store_of, succeeded
from tests.workflow.s3_server import BUCKET, S3Server, s3_server

Snakemake = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

ARTIFACTS = ["results/data/prose/seed0", "results/tokenizer/bpe/default/seed0"]
# What goes away says so, names the remote, and what to do.
AWAY = "remote team"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def first(server: S3Server, snakemake: Snakemake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose remote is on S3, with a corpus and a tokenizer computed and nothing shared."""
    folder = copy_checkout(tmp_path_factory.mktemp("s3") / "first")
    commit(folder, "Begin")
    command(folder, "dvc", "remote", "add", "--default", "team", f"s3://{BUCKET}/retrace")
    command(folder, "dvc", "remote", "modify", "team", "endpointurl", server.url)
    commit(folder, "Set the team's remote")
    succeeded(snakemake(folder, ARTIFACTS[-1]))
    assert computed(folder) == set(ARTIFACTS)
    return folder


def test_a_server_that_goes_away_while_artifacts_are_shared_gets_the_rest_later(server: S3Server, first: Path) -> None:
    server.objects_left = 4
    done = command(first, "pipelines", "store", "share", *ARTIFACTS, check=False)
    assert done.returncode == 2
    assert AWAY in done.stderr
    assert "Traceback" not in done.stderr
    server.objects_left = None
    # Records go last, so nobody finds one whose objects are not there.
    fresh = clone(first, first.parent / "too_early")
    command(fresh, "pipelines", "store", "fetch", "--records-only", "--configfile", SMOKE)
    assert list(store_of(fresh).records()) == []

    assert "sent" in command(first, "pipelines", "store", "share", *ARTIFACTS).stdout
    assert "nothing to do" in command(first, "pipelines", "store", "share", *ARTIFACTS).stdout


def test_a_server_that_goes_away_while_artifacts_are_fetched_keeps_no_job_from_being_computed(
    server: S3Server, first: Path, snakemake: Snakemake
) -> None:
    command(first, "pipelines", "store", "share", *ARTIFACTS)
    fetching = clone(first, first.parent / "fetching")
    server.objects_left = 3
    done = command(fetching, "pipelines", "store", "fetch", *ARTIFACTS, "--configfile", SMOKE, check=False)
    assert done.returncode == 2
    assert AWAY in done.stderr
    assert "Traceback" not in done.stderr
    # Away for good: what cannot be had is computed, and said to be.
    said = succeeded(snakemake(fetching, ARTIFACTS[-1]))
    assert AWAY in said
    assert computed(fetching) == set(ARTIFACTS)
    server.objects_left = None


def test_what_was_shared_over_s3_is_restored_in_a_fresh_clone(
    server: S3Server, first: Path, snakemake: Snakemake
) -> None:
    command(first, "pipelines", "store", "share", *ARTIFACTS)
    fresh = clone(first, first.parent / "fresh")
    succeeded(snakemake(fresh, ARTIFACTS[-1]))
    assert set(run_records(fresh)) == set(ARTIFACTS)
    assert computed(fresh) == set()
    for path in ARTIFACTS:
        for file in (first / path).iterdir():
            if file.name not in ("run.json", ".snakemake_timestamp"):
                assert (fresh / path / file.name).read_bytes() == file.read_bytes()
    assert "Nothing to be done" in succeeded(snakemake(fresh, "-n", ARTIFACTS[-1]))
