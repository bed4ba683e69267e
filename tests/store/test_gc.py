"""``store gc``: what the tables need, what git holds and what was used lately stays; the rest goes, when asked to."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest
import yaml

from tests.store.team import AUTHOR, contents, make_artifact, record_of, run_of, store_of

OLD = "results/growth/stack/older/seed0"
ALL = 11
MONTHS_AGO = time.time() - 100 * 86400


@pytest.fixture
def used(alice):
    """Alice's store after a change of parameters: an artifact that no table needs any more, long unused."""
    make_artifact(alice / OLD, "0" * 64, "growth", "train")
    assert store_of(alice).put(alice / OLD, run_of(alice / OLD))
    grow_old(alice)
    return alice


def grow_old(checkout):
    """Let everything in the store have been used last months ago."""
    for path in (checkout / ".dvc" / "cache").rglob("*"):
        os.utime(path, (MONTHS_AGO, MONTHS_AGO))


def stored(checkout) -> set[str]:
    return {record.path for record in store_of(checkout).records()}


def own_objects(checkout) -> set[str]:
    """Objects that only the old artifact has."""
    records = {record.path: record for record in store_of(checkout).records()}
    names = {path: {*(each.md5 for each in record.files), record.tree} for path, record in records.items()}
    return names.pop(OLD) - set().union(*names.values())


def test_what_no_table_needs_goes_and_nothing_else(used, store_command):
    gone = own_objects(used)
    before = {name for name, _ in store_of(used).cache.objects()}
    dry = store_command(used, "gc", "--dry-run")
    assert dry.stdout.splitlines()[1].startswith("would free 1 record, 3 objects, ")
    assert OLD in stored(used)
    done = store_command(used, "gc", "--yes")
    kept, freed = done.stdout.splitlines()[:2]
    assert kept == f"the store here keeps {ALL} for the current tables, 0 published in git, 0 used lately"
    assert freed.startswith("frees 1 record, 3 objects, ")
    assert len(gone) == 3
    assert {name for name, _ in store_of(used).cache.objects()} == before - gone
    assert len(stored(used)) == ALL
    assert (used / OLD / "run.json").is_file()
    assert store_command(used, "gc", "--yes").stdout.endswith("nothing to free\n")


def test_it_asks_a_person_and_refuses_where_nobody_is(used, store_command, quiet):
    done = store_command(used, "gc", check=False)
    assert done.returncode == 2
    assert "nobody is at the terminal: give --yes, or --dry-run" in done.stderr
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    asked = subprocess.run(
        [sys.executable, "-m", "pipelines", "store", "gc"],
        cwd=used,
        stdin=theirs,
        env={**os.environ, **quiet, "PYTHONPATH": str(used)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(ours)
    os.close(theirs)
    assert asked.returncode == 1
    assert "Delete them? [y/N]" in asked.stdout
    assert OLD in stored(used)


def test_what_killed_jobs_left_half_written_goes_after_a_day_and_what_may_be_at_work_stays(used, store_command):
    objects, records = store_of(used).cache.objects_folder, store_of(used).records_folder
    places = [next(folder.glob("??")) for folder in (objects, records)]
    old, new = ([place / f".name.{age}.tmp" for place in places] for age in ("old", "new"))
    for path in (*old, *new):
        path.touch()
    for path in old:
        os.utime(path, (MONTHS_AGO, MONTHS_AGO))
    store_command(used, "gc", "--dry-run")
    assert all(path.exists() for path in old)
    store_command(used, "gc", "--yes")
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in new)


def test_a_recent_use_keeps_a_record_and_an_object_that_was_put_again(used, store_command):
    store, record = store_of(used), record_of(used, OLD)
    os.utime(store.path(record.key))
    assert "1 used lately\nnothing to free" in store_command(used, "gc", "--yes").stdout
    assert "0 used lately\nwould free 1 record" in store_command(used, "gc", "--dry-run", "--days", "-1").stdout
    # A job that is running has put this object again, and writes its record in a moment.
    os.utime(store.path(record.key), (MONTHS_AGO, MONTHS_AGO))
    object_in_use = store.cache.path(max(own_objects(used)))
    os.utime(object_in_use)
    assert "frees 1 record, 2 objects" in store_command(used, "gc", "--yes").stdout
    assert object_in_use.is_file()


def test_what_a_branch_or_a_tag_published_stays(used, store_command, call):
    record = record_of(used, OLD)
    outs = [{"path": OLD, "md5": record.tree, "size": record.size, "nfiles": len(record.files), "hash": "md5"}]
    (used / "published.dvc").write_text(yaml.safe_dump({"outs": outs}), encoding="utf-8")
    assert "1 published in git" in store_command(used, "gc", "--yes").stdout
    for command in (
        ("switch", "-q", "-c", "paper"),
        ("add", "published.dvc"),
        (*AUTHOR, "commit", "-q", "-m", "Publish"),
    ):
        call(used, "git", *command)
    call(used, "git", "switch", "-q", "main")
    assert not (used / "published.dvc").exists()
    assert "1 published in git" in store_command(used, "gc", "--yes").stdout
    for command in (("tag", "v1", "paper"), ("branch", "-q", "-D", "paper")):
        call(used, "git", *command)
    assert "1 published in git" in store_command(used, "gc", "--yes").stdout
    assert OLD in stored(used)
    call(used, "git", "tag", "-d", "v1")
    assert "frees 1 record" in store_command(used, "gc", "--yes").stdout


def test_objects_that_other_files_of_dvc_track_stay(used, store_command, call):
    weights = (used / OLD / "model" / "weights.safetensors").read_bytes()
    (used / "pretrained.bin").write_bytes(weights)
    (used / "folder").mkdir()
    (used / "folder" / "run.json").write_bytes((used / OLD / "run.json").read_bytes())
    call(used, "dvc", "add", "-q", "pretrained.bin", "folder")
    grow_old(used)
    assert "frees 1 record, 1 object" in store_command(used, "gc", "--yes").stdout
    (used / "pretrained.bin").unlink()
    call(used, "dvc", "checkout", "-q", "pretrained.bin.dvc", "folder.dvc")
    assert (used / "pretrained.bin").read_bytes() == weights


def test_parameters_that_cannot_be_planned_delete_nothing(used, store_command):
    (used / "params.yaml").write_text("papers: [unknown]\n", encoding="utf-8")
    done = store_command(used, "gc", "--yes", check=False)
    assert done.returncode == 2
    assert OLD in stored(used)


def test_on_the_remote_the_day_of_storing_counts(used, disk, store_command):
    store_command(used, "share", "--all")
    there = contents(disk)
    kept = store_command(used, "gc", "--remote", "--yes")
    assert kept.stdout.startswith(
        f"remote team ({disk}) keeps {ALL} for the current tables, 0 published in git, 1 used"
    )
    assert contents(disk) == there
    done = store_command(used, "gc", "--remote", "--yes", "--days", "-1")
    assert "frees 1 record, 3 objects" in done.stdout
    assert len(list(disk.glob("retrace/records/??/*.json"))) == ALL
    assert len(contents(disk)) == len(there) - 4
    # The store here is another matter.
    assert OLD in stored(used)


def test_on_the_remote_a_published_artifact_stays_though_its_record_was_replaced(used, disk, store_command):
    store_command(used, "share", "--all")
    record = record_of(used, OLD)
    path = disk / "retrace" / "records" / record.key[:2] / f"{record.key}.json"
    outs = [{"path": OLD, "md5": record.tree, "size": record.size, "nfiles": len(record.files), "hash": "md5"}]
    (used / "published.dvc").write_text(yaml.safe_dump({"outs": outs}), encoding="utf-8")
    # The same weights, another run record: what a second person computed.
    make_artifact(used / "results" / "again", "0" * 64, "growth", "train", seconds=1.0)
    weights = used / OLD / "model" / "weights.safetensors"
    (used / "results" / "again" / "model" / "weights.safetensors").write_bytes(weights.read_bytes())
    store_of(used).remove(record.key)
    other = store_of(used).put(used / "results" / "again", run_of(used / "results" / "again"))
    assert other is not None
    assert other.tree != record.tree
    path.write_text(other.to_json(), encoding="utf-8")
    store_of(used).cache.remove(record.tree)
    before = contents(disk)
    assert "frees 1 record, 0 objects" in store_command(used, "gc", "--remote", "--yes", "--days", "-1").stdout
    assert len(contents(disk)) == len(before) - 1
