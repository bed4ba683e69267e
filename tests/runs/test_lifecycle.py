"""A job and the store: what is there is not computed, what is computed is there, and what fails leaves nothing."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.lock import lock_file, ranks_file, remove_unfinished
from tests.runs.artifacts import SCRATCH, STACK, left_in, object_of, run_of


def test_what_was_computed_is_restored_anywhere_and_not_computed_again(grow, tmp_path, store):
    computed = grow("first", SCRATCH)
    assert "restored" not in computed.stderr
    first = run_of(tmp_path / "results" / "first")
    assert store.record(first["key"]).path == "first"
    done = grow("deep/second", {**SCRATCH, "seed": 0}, execution={"threads": 2})
    day, seconds = first["started"][:10], first["seconds"]
    assert done.stderr == f"restored from the store: computed {day} in {seconds:.1f} s\n"
    second = run_of(tmp_path / "results" / "deep" / "second")
    assert second == {**first, "provenance": "restored", "restored_at": second["restored_at"]}
    for name in ("weights", "metrics.jsonl"):
        paths = [tmp_path / "results" / each / name for each in ("first", "deep/second")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert left_in(tmp_path / "results") == ["deep", "first"]
    assert left_in(tmp_path / "work") == []


def test_a_planned_key_is_served_before_any_input_is_read_or_anything_heavy_imported(grow, tmp_path, shared_tree):
    grow("base", SCRATCH)
    grow("grown", STACK, "--base", tmp_path / "results" / "base")
    key = run_of(tmp_path / "results" / "grown")["key"]
    shutil.rmtree(tmp_path / "results")
    options = ["--spec", json.dumps(STACK), "--base", "results/base", "--key", key, "--out", "results/grown"]
    program = (
        "import sys, atexit\n"
        "heavy = {'torch', 'numpy', 'dvc', 'dvc_data', 'rich', 'mlflow', 'safetensors', 'pipelines.growth.training'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        f"sys.argv = {['pipelines', 'growth', 'train', *options]!r}\n"
        "from pipelines.runs.command import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(shared_tree)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("restored from the store: computed ")
    assert done.stdout.strip() == "[]"
    assert run_of(tmp_path / "results" / "grown")["key"] == key


def test_a_planned_artifact_that_is_already_in_place_is_left_there_and_any_other_is_refused(grow, tmp_path):
    grow("one", SCRATCH)
    run = run_of(tmp_path / "results" / "one")
    done = grow("one", SCRATCH, "--key", run["key"])
    assert done.stderr.endswith("one was finished by another process meanwhile\n")
    assert run_of(tmp_path / "results" / "one") == run
    for options in ((), ("--key", "f" * 64)):
        refused = grow("one", SCRATCH, *options, check=False)
        assert refused.returncode == 2
        assert "exists: remove it" in refused.stderr


def test_only_what_changes_a_result_is_computed_again(grow, tmp_path, shared_tree):
    def provenance(name: str, spec: dict[str, Any]) -> str:
        grow(name, spec)
        return str(run_of(tmp_path / "results" / name)["provenance"])

    formula = shared_tree / "pipelines" / "growth" / "formula.py"
    original = formula.read_text()
    assert provenance("one", SCRATCH) == "computed"
    assert provenance("seed", {**SCRATCH, "seed": 1}) == "computed"
    formula.write_text(f"# The loss.\n{original}")
    assert provenance("comment", SCRATCH) == "restored"
    formula.write_text(original.replace("1.0", "2.0"))
    assert provenance("formula", SCRATCH) == "computed"
    formula.write_text(original)
    assert provenance("back", SCRATCH) == "restored"


def test_a_store_that_is_off_is_neither_asked_nor_written(grow, tmp_path):
    grow("one", SCRATCH, env={"RETRACE_STORE": "off"})
    assert not (tmp_path / "cache").exists()
    grow("two", SCRATCH)
    grow("three", SCRATCH, env={"RETRACE_STORE": "off"})
    assert run_of(tmp_path / "results" / "three")["provenance"] == "computed"


def test_a_run_record_has_the_code_it_was_made_by(grow, tmp_path):
    grow("one", SCRATCH)
    code = run_of(tmp_path / "results" / "one")["code"]
    assert {"pipelines/growth/training.py", "pipelines/growth/formula.py"} < set(code)
    assert all(len(each) == 16 for each in code.values())


def test_the_key_of_another_job_is_refused_by_what_differs(grow, tmp_path):
    grow("one", SCRATCH)
    key = run_of(tmp_path / "results" / "one")["key"]
    done = grow("two", {**SCRATCH, "seed": 1, "steps": 4}, "--key", key, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == f"error: --key {key[:12]} is of another spec (seed, steps): give the key of this job, or none\n"
    )
    done = grow("two", SCRATCH, "--key", "no-key", check=False)
    assert "'no-key' is not the key of a job" in done.stderr
    assert left_in(tmp_path / "results") == ["one"]


def test_a_job_that_is_not_the_planned_one_is_refused_and_its_input_named(grow, tmp_path, shared_tree):
    base = tmp_path / "results" / "base"
    grow("base", SCRATCH)
    planned = "ab" * 32
    done = grow("grown", STACK, "--base", base, "--key", planned, check=False)
    assert done.returncode == 2
    assert f"job {planned[:12]} was planned" in done.stderr
    assert f"since then the code, a package or an input has changed (--base {base})" in done.stderr
    formula = shared_tree / "pipelines" / "growth" / "formula.py"
    formula.write_text(formula.read_text().replace("1.0", "2.0"))
    done = grow("grown", STACK, "--base", base, "--key", planned, check=False)
    assert done.returncode == 2
    assert f"--base {base} is not what the code here makes: run snakemake again" in done.stderr
    assert left_in(tmp_path / "results") == ["base"]


@pytest.mark.parametrize("damage", [b"tart", b"", None])
def test_a_bad_object_is_computed_again_and_replaced(grow, tmp_path, store, damage):
    grow("one", SCRATCH)
    key = run_of(tmp_path / "results" / "one")["key"]
    weights = object_of(store, key, "weights")
    weights.unlink()
    if damage is not None:
        weights.write_bytes(damage)
    done = grow("two", SCRATCH)
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert all(weights.name[2:] in line for line in warnings)
    assert warnings[-1].endswith("is missing; two is computed")
    assert run_of(tmp_path / "results" / "two")["provenance"] == "computed"
    assert weights.read_bytes() == b"part"
    assert grow("three", SCRATCH).stderr.startswith("restored from the store")


def give_remote(tree: Path, folder: Path) -> None:
    with (tree / ".dvc" / "config").open("a") as config:
        config.write(f"[core]\n    remote = team\n    analytics = false\n['remote \"team\"']\n    url = {folder}\n")


@pytest.mark.parametrize("damage", [b"tart", None])
def test_an_object_that_only_the_remote_has_whole_is_fetched_from_there(
    grow, tmp_path, shared_tree, store, damage, monkeypatch
):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    grow("one", SCRATCH)
    give_remote(shared_tree, tmp_path / "remote")
    shutil.copytree(store.cache.objects_folder, tmp_path / "remote" / "files" / "md5")
    weights = object_of(store, run_of(tmp_path / "results" / "one")["key"], "weights")
    weights.unlink()
    if damage is not None:
        weights.write_bytes(damage)
    done = grow("two", SCRATCH)
    assert "fetching 1 objects (0.0 MB) from remote team" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("restored from the store")
    assert weights.read_bytes() == b"part"


def test_a_remote_that_is_away_is_a_warning_and_the_job_computes(grow, tmp_path, shared_tree, store, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    grow("one", SCRATCH)
    give_remote(shared_tree, tmp_path / "nowhere")
    object_of(store, run_of(tmp_path / "results" / "one")["key"], "weights").unlink()
    done = grow("two", SCRATCH)
    (warning,) = (line for line in done.stderr.splitlines() if line.startswith("warning: "))
    assert "team" in warning
    assert warning.endswith("; two is computed")
    assert run_of(tmp_path / "results" / "two")["provenance"] == "computed"


def test_a_read_only_store_serves_hits_and_misses_are_computed_but_not_shared(grow, tmp_path, store, read_only):
    grow("one", SCRATCH)
    read_only(store.cache.settings.folder)
    assert grow("hit", SCRATCH).stderr.startswith("restored from the store")
    done = grow("miss", {**SCRATCH, "seed": 1})
    assert "warning: the result is whole but could not be shared" in done.stderr
    assert run_of(tmp_path / "results" / "miss")["provenance"] == "computed"


def test_a_disk_full_of_artifacts_is_one_line_and_nothing_half_written(grow, tmp_path, small_disk):
    small_disk(tmp_path / "results", "512k")
    grow("small", SCRATCH)
    done = grow("run", {**SCRATCH, "fault": "large"}, check=False)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    for part in (str(tmp_path / "results"), "no space left", "store gc", str(tmp_path / "work")):
        assert part in line
    assert "Traceback" not in done.stderr
    assert left_in(tmp_path / "results") == ["small"]
    assert len(left_in(tmp_path / "work")) == 1, "checkpoints stay"


def test_a_disk_too_full_to_restore_is_one_line_and_nothing_half_written(grow, tmp_path, small_disk):
    grow("run", {**SCRATCH, "fault": "large"})
    shutil.rmtree(tmp_path / "results")
    small_disk(tmp_path / "results", "512k")
    done = grow("run", {**SCRATCH, "fault": "large"}, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'results'}")
    assert left_in(tmp_path / "results") == []


def test_a_disk_full_of_objects_is_a_warning_and_the_artifact_is_whole(grow, tmp_path, store, small_disk):
    small_disk(store.cache.settings.folder, "512k")
    done = grow("run", {**SCRATCH, "fault": "large"})
    assert "warning: the result is whole but could not be shared" in done.stderr
    assert (tmp_path / "results" / "run" / "large").stat().st_size == 2_000_000
    assert list(store.records()) == []


def test_a_job_killed_when_its_work_was_done_is_found_in_the_store(grow, tmp_path, shared_tree):
    placement = shared_tree / "pipelines" / "runs" / "placement.py"
    original = placement.read_text()
    kill = "\n    os.kill(os.getpid(), 9)\n    replaced = "
    placement.write_text(original.replace("\n    replaced = ", kill, 1))
    done = grow("run", SCRATCH, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name for name in left_in(tmp_path / "results") if not name.endswith(".partial")] == []
    placement.write_text(original)
    assert "restored from the store" in grow("run", SCRATCH).stderr
    assert left_in(tmp_path / "results") == ["run"]
    assert left_in(tmp_path / "work") == []


def test_what_killed_attempts_left_of_a_stored_job_goes_unless_one_of_its_ranks_still_runs(tmp_path):
    work = tmp_path / "key"
    lock_file(work).touch()
    with ranks_file(work).open("w") as rank:
        fcntl.flock(rank, fcntl.LOCK_SH)
        remove_unfinished(work)
        assert left_in(tmp_path) == ["key.lock", "key.ranks"]
    work.mkdir()
    remove_unfinished(work)
    assert left_in(tmp_path) == []


def test_a_job_told_to_end_when_its_work_is_done_finishes(grow, tmp_path, shared_tree, store):
    placement = shared_tree / "pipelines" / "runs" / "placement.py"
    told = "\n    os.kill(os.getpid(), 15)\n    replaced = "
    placement.write_text(placement.read_text().replace("\n    replaced = ", told, 1))
    grow("run", SCRATCH)
    assert left_in(tmp_path / "results") == ["run"]
    assert len(list(store.records())) == 1
