"""What may go wrong around a job, end to end: each is said in words, and nothing that was computed is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.small_disk import SmallDisk, small_disk
from tests.workflow.small_jobs import SmallJobs

pytestmark = pytest.mark.slow

# A port nobody listens on.
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def jobs(checkout: Path, run_cli: Callable[..., Any]) -> SmallJobs:
    return SmallJobs(checkout, run_cli)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Room for a record or two, and for no artifact."""
    with small_disk(tmp_path / "disk", "64k") as mounted:
        yield mounted


def set_cache(jobs: SmallJobs, folder: Path) -> None:
    """As ``dvc cache dir --local`` does."""
    (jobs.folder / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {folder}\n", encoding="utf-8")


def set_remote(jobs: SmallJobs, folder: Path) -> None:
    """As ``dvc remote add --local --default team`` does."""
    text = f"[core]\n    remote = team\n['remote \"team\"']\n    url = {folder}\n"
    (jobs.folder / ".dvc" / "config.local").write_text(text, encoding="utf-8")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    _rewrite(path, bytes(content))


def truncate(path: Path) -> None:
    _rewrite(path, path.read_bytes()[:-1])


def _rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_a_harmed_object_is_said_to_be_computed_anew_and_put_right(
    jobs: SmallJobs, harm: Callable[[Path], Any]
) -> None:
    jobs.corpus("results/first")
    largest = jobs.objects("results/first")[0]
    whole = largest.read_bytes()
    harm(largest)
    said = jobs.corpus("results/again").stderr
    assert "warning" in said
    assert largest.parent.name + largest.name in said or "missing" in said or "damaged" in said
    assert jobs.run_record("results/again")["provenance"] == "computed"
    assert jobs.content("results/again") == jobs.content("results/first")
    assert largest.read_bytes() == whole
    jobs.corpus("results/after")
    assert jobs.run_record("results/after")["provenance"] == "restored"
    assert jobs.content("results/after") == jobs.content("results/first")


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_a_harmed_object_is_fetched_from_the_remote_and_put_right(
    jobs: SmallJobs, tmp_path: Path, harm: Callable[[Path], Any]
) -> None:
    set_remote(jobs, tmp_path / "remote")
    jobs.corpus("results/first")
    jobs.run("store", "share", "results/first")
    largest = jobs.objects("results/first")[0]
    whole = largest.read_bytes()
    harm(largest)
    assert "from remote team" in jobs.corpus("results/again").stderr
    assert jobs.run_record("results/again")["provenance"] == "restored"
    assert jobs.content("results/again") == jobs.content("results/first")
    assert largest.read_bytes() == whole


def test_an_object_harmed_on_the_remote_is_computed_anew_and_shared_again(jobs: SmallJobs, tmp_path: Path) -> None:
    set_remote(jobs, tmp_path / "remote")
    jobs.corpus("results/first")
    jobs.run("store", "share", "results/first")
    largest = jobs.objects("results/first")[0]
    there = tmp_path / "remote" / "files" / "md5" / largest.parent.name / largest.name
    whole = there.read_bytes()
    flip(there)
    largest.unlink()
    assert "damaged" in jobs.corpus("results/again").stderr
    assert jobs.run_record("results/again")["provenance"] == "computed"
    assert jobs.content("results/again") == jobs.content("results/first")
    said = jobs.run("store", "share", "results/again").stdout
    assert "in place of bad ones" in said
    assert there.read_bytes() == whole


def test_a_remote_that_is_full_takes_the_rest_when_it_has_room(jobs: SmallJobs, disk: SmallDisk) -> None:
    set_remote(jobs, disk.folder / "remote")
    jobs.corpus("results/first")
    done = jobs.run("store", "share", "results/first", check=False)
    assert done.returncode == 2
    assert "remote team" in done.stderr
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    # Whoever looks there meanwhile finds no record whose objects are not there.
    assert not list(disk.folder.rglob("retrace/**/*.json"))
    disk.remount("size=10m")
    assert "sent" in jobs.run("store", "share", "results/first").stdout
    for each in jobs.objects("results/first"):
        there = disk.folder / "remote" / "files" / "md5" / each.parent.name / each.name
        assert there.read_bytes() == each.read_bytes()


def test_a_remote_that_is_gone_keeps_no_job_from_being_computed(jobs: SmallJobs, disk: SmallDisk) -> None:
    disk.remount("size=10m")
    set_remote(jobs, disk.folder / "remote")
    jobs.corpus("results/first")
    jobs.run("store", "share", "results/first")
    disk.unmount()
    jobs.objects("results/first")[0].unlink()
    assert "remote team" in jobs.corpus("results/again").stderr
    assert jobs.run_record("results/again")["provenance"] == "computed"
    assert jobs.content("results/again") == jobs.content("results/first")


def test_no_room_for_the_artifact_is_one_line_and_with_room_the_job_succeeds(jobs: SmallJobs, disk: SmallDisk) -> None:
    out = str(disk.folder / "corpus")
    done = jobs.corpus(out, check=False)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(disk.folder.iterdir()) == []
    disk.remount("size=10m")
    jobs.corpus(out)
    assert jobs.run_record(out)["provenance"] == "computed"


def test_no_room_in_the_store_costs_the_sharing_and_not_the_result(jobs: SmallJobs, disk: SmallDisk) -> None:
    set_cache(jobs, disk.folder / "cache")
    said = jobs.corpus("results/first").stderr
    assert "could not be shared" in said
    assert "No space left" in said
    assert jobs.store.record(jobs.run_record("results/first")["key"]) is None
    assert not list(disk.folder.rglob("*.tmp"))
    disk.remount("size=10m")
    assert "could not be shared" not in jobs.corpus("results/second").stderr
    jobs.corpus("results/third")
    assert jobs.run_record("results/third")["provenance"] == "restored"
    assert jobs.content("results/third") == jobs.content("results/first")


def test_no_room_for_checkpoints_lets_training_go_on_to_the_same_model(jobs: SmallJobs, disk: SmallDisk) -> None:
    jobs.environment = {"RETRACE_STORE": "off", "RETRACE_CHECKPOINT_SECONDS": "0"}
    jobs.corpus()
    jobs.tokenizer()
    jobs.tokens()
    undisturbed = jobs.model("results/undisturbed")
    assert "warning" not in undisturbed.stderr
    said = jobs.model("results/model", env={"RETRACE_WORK": str(disk.folder / "work")}).stderr
    assert "No space left" in said
    assert jobs.content("results/model") == jobs.content("results/undisturbed")
    assert [path for path in disk.folder.rglob("*") if path.is_file() and path.stat().st_size > 0] == []


def test_a_read_only_store_answers_and_says_what_it_could_not_take(jobs: SmallJobs, disk: SmallDisk) -> None:
    disk.remount("size=10m")
    set_cache(jobs, disk.folder / "cache")
    jobs.corpus()
    disk.remount("ro")
    assert "warning" not in jobs.corpus("results/again").stderr
    assert jobs.run_record("results/again")["provenance"] == "restored"
    said = jobs.tokenizer().stderr
    assert "could not be shared" in said
    assert "Read-only file system" in said
    assert jobs.run_record("results/tokenizer")["provenance"] == "computed"


def test_a_read_only_store_with_a_damaged_object_is_no_obstacle(jobs: SmallJobs, disk: SmallDisk) -> None:
    disk.remount("size=10m")
    set_cache(jobs, disk.folder / "cache")
    jobs.corpus("results/first")
    flip(jobs.objects("results/first")[0])
    disk.remount("ro")
    assert "damaged" in jobs.corpus("results/again").stderr
    assert jobs.run_record("results/again")["provenance"] == "computed"
    assert jobs.content("results/again") == jobs.content("results/first")


def test_training_does_without_mlflow_and_its_metrics_are_mirrored_later(jobs: SmallJobs, tmp_path: Path) -> None:
    away = {"MLFLOW_TRACKING_URI": NOBODY, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    jobs.environment = away
    jobs.corpus()
    jobs.tokenizer()
    jobs.tokens()
    jobs.model()
    said = jobs.run("runs", "mirror", "results").stderr
    assert "0 of 4 runs are in MLflow" in said
    assert "To copy them again: python -m pipelines runs mirror" in said
    assert jobs.run_record("results/model")["mlflow_run_id"] is None

    jobs.environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    jobs.run("runs", "mirror", "results", "--out", "ids.json")
    ids = json.loads((jobs.folder / "ids.json").read_text(encoding="utf-8"))
    assert jobs.run_record("results/model")["mlflow_run_id"] == ids["results/model"]
    assert final_loss_in_mlflow(jobs.environment["MLFLOW_TRACKING_URI"], ids["results/model"]) > 0


def final_loss_in_mlflow(uri: str, run_id: str) -> float:
    import mlflow

    client = mlflow.MlflowClient(uri)
    loss: float = client.get_run(run_id).data.metrics["val_loss"]
    client._tracking_client.store.engine.dispose()
    return loss
