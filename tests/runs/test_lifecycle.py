"""A job and the store: what is there is not computed, what is computed is there, and two never do it twice."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.cache import Cache, CacheSettings
from pipelines.runs.lock import job_lock, lock_file, ranks_file, remove_unfinished
from pipelines.runs.store import Store

SCRATCH = {"method": {"name": "scratch"}}
STACK = {"method": {"name": "stack", "growth_factor": 2}}


@pytest.fixture
def grow(shared_tree: Path, run_cli, tmp_path: Path):
    """Run the tree's one verb into a folder below ``results``: ``grow("name", spec, *options, execution=...)``."""

    def grow(name: str, spec: dict[str, Any], *options, **keywords) -> subprocess.CompletedProcess[str]:
        out = tmp_path / "results" / name
        return run_cli("growth", "train", "--out", out, *options, spec=spec, cwd=shared_tree, **keywords)

    return grow


@pytest.fixture
def start(shared_tree: Path, tmp_path: Path):
    """Start the verb and return at once: ``start("name", spec)``; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(name: str, spec: dict[str, Any], *options: str, **env: str) -> subprocess.Popen[str]:
        out = str(tmp_path / "results" / name)
        command = [sys.executable, "-m", "pipelines", "growth", "train", "--spec", json.dumps(spec), "--out", out]
        environment = {**os.environ, "RETRACE_WORK": str(tmp_path / "work"), "PYTHONPATH": str(shared_tree), **env}
        job = subprocess.Popen(
            [*command, *options], cwd=shared_tree, env=environment, stderr=subprocess.PIPE, text=True
        )
        started.append(job)
        return job

    yield start
    for job in started:
        job.kill()
        job.wait()
        assert job.stderr is not None
        job.stderr.close()


@pytest.fixture
def store(shared_tree: Path, tmp_path: Path) -> Store:
    return Store(Cache(CacheSettings(tmp_path / "cache", ("copy",))), shared_tree)


def run_of(artifact: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((artifact / "run.json").read_text())
    return run


def left_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def object_of(store: Store, key: str, name: str) -> Path:
    record = store.record(key)
    assert record is not None
    return store.cache.path(next(each.md5 for each in record.files if each.relpath == name))


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


GATE = {**SCRATCH, "fault": "gate"}


def open_gate_when_waiting(results: Path, second: subprocess.Popen[str]) -> str:
    """Let the first job end once the second one waits for it; what the second one said."""
    assert second.stderr is not None
    line = second.stderr.readline()
    (results / "go").touch()
    assert second.wait(timeout=60) == 0
    return line + second.stderr.read()


def test_the_second_of_two_at_once_waits_and_is_served(start, tmp_path, store):
    results = tmp_path / "results"
    first = start("one", GATE)
    wait_until((results / "waiting0").exists)
    said = open_gate_when_waiting(results, start("two", GATE))
    assert first.wait(timeout=60) == 0
    assert said.startswith(
        f"waiting for the same job, which is computed by process {first.pid} on {os.uname().nodename}\n"
    )
    assert "restored from the store" in said
    assert (run_of(results / "one")["provenance"], run_of(results / "two")["provenance"]) == ("computed", "restored")
    assert len(list(store.records())) == 1
    assert left_in(results) == ["go", "one", "two", "waiting0"]
    assert left_in(tmp_path / "work") == []


def test_the_second_of_two_at_once_finds_the_first_ones_artifact_in_place(start, tmp_path):
    results = tmp_path / "results"
    first = start("one", GATE, RETRACE_STORE="off")
    wait_until((results / "waiting0").exists)
    said = open_gate_when_waiting(results, start("one", GATE, RETRACE_STORE="off"))
    assert first.wait(timeout=60) == 0
    assert said.endswith(f"{results / 'one'} was finished by another process meanwhile\n")
    assert left_in(results) == ["go", "one", "waiting0"]


def test_those_that_cannot_see_each_other_all_succeed_and_leave_one_record(start, tmp_path, store):
    results = tmp_path / "results"
    jobs = []
    for number, out in enumerate(("same", "same", "other")):
        jobs.append(start(out, GATE, RETRACE_WORK=str(tmp_path / f"work{number}")))
        wait_until((results / "waiting0").exists)
        (results / "waiting0").rename(results / f"waited{number}")
    (results / "go").touch()
    assert [job.wait(timeout=60) for job in jobs] == [0, 0, 0]
    assert left_in(results) == ["go", "other", "same", "waited0", "waited1", "waited2"]
    (record,) = store.records()
    assert run_of(results / "same")["key"] == run_of(results / "other")["key"] == record.key
    assert store.missing(record) == []


def test_the_one_that_waits_goes_on_when_the_other_is_killed(start, tmp_path):
    results = tmp_path / "results"
    first = start("one", GATE)
    wait_until((results / "waiting0").exists)
    second = start("two", GATE)
    assert second.stderr is not None
    assert second.stderr.readline().startswith("waiting for the same job")
    first.kill()
    (results / "go").touch()
    assert second.wait(timeout=60) == 0
    assert run_of(results / "two")["provenance"] == "computed"
    assert left_in(tmp_path / "work") == []


def test_a_job_waits_for_ranks_that_outlived_the_process_that_started_them(tmp_path):
    work = tmp_path / "work" / "key"
    lock = f"from pathlib import Path\nfrom pipelines.runs.lock import *\nwork = Path({str(work)!r})\n"
    rank = subprocess.Popen(
        [sys.executable, "-c", f"{lock}hold_rank(work)\nprint('held', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert rank.stdout is not None
    assert rank.stdout.readline() == "held\n"
    job = subprocess.Popen(
        [sys.executable, "-c", f"{lock}with job_lock(work):\n    print('mine')"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stderr is not None
    assert job.stderr.readline() == "waiting for ranks of an earlier attempt to end\n"
    assert job.poll() is None
    rank.communicate("end\n")
    assert job.communicate(timeout=30) == ("mine\n", "")
    assert left_in(tmp_path / "work") == []


def test_files_that_cannot_be_locked_keep_no_job_from_running(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with job_lock(tmp_path / "work" / "key") as waited:
        assert not waited
    (tmp_path / "file").touch()
    with job_lock(tmp_path / "file" / "key") as waited:
        assert not waited


def test_ranks_store_what_they_made_and_what_is_stored_starts_none(grow, tmp_path):
    two = {"processes": 2, "device": "cpu"}
    grow("one", SCRATCH, execution=two)
    assert run_of(tmp_path / "results" / "one")["world_size"] == 2
    assert [name for name in left_in(tmp_path / "work") if "." in name] == [], "no lock outlives the job"
    (tmp_path / "no" / "torch").mkdir(parents=True)
    (tmp_path / "no" / "torch" / "__init__.py").write_text("raise ImportError('torchrun was started')")
    done = grow("two", SCRATCH, execution=two, env={"PYTHONPATH": str(tmp_path / "no")})
    assert done.stderr.startswith("restored from the store")
    done = grow("three", {**SCRATCH, "seed": 1}, execution=two, env={"PYTHONPATH": str(tmp_path / "no")}, check=False)
    assert "torchrun was started" in done.stderr


def step_of_two(task: int) -> dict[str, str]:
    names = {"STEP_NUM_TASKS": "2", "PROCID": str(task), "LOCALID": "0", "JOB_ID": "77", "STEP_ID": "1"}
    return {**{f"SLURM_{name}": value for name, value in names.items()}, "MASTER_ADDR": "n1"}


def test_the_first_task_of_srun_restores_and_the_others_have_nothing_to_do(grow, tmp_path, store):
    two = {"processes": 2, "device": "cpu"}
    for task in (1, 0):
        grow("one", {**SCRATCH, "seed": 0}, execution=two, env=step_of_two(task))
    first = run_of(tmp_path / "results" / "one")
    assert (first["provenance"], first["world_size"]) == ("computed", 2)
    assert grow("two", SCRATCH, execution=two, env=step_of_two(1)).stderr == ""
    assert left_in(tmp_path / "results") == ["one"]
    assert "restored from the store" in grow("two", SCRATCH, execution=two, env=step_of_two(0)).stderr
    # A task alone cannot compute: the others have ended.
    weights = object_of(store, first["key"], "weights")
    weights.chmod(0o644)
    weights.write_bytes(b"tart")
    done = grow("three", SCRATCH, execution=two, env=step_of_two(0), check=False)
    assert done.returncode == 2
    assert "run the job again" in done.stderr
    assert "computed" not in grow("three", SCRATCH, execution=two, env=step_of_two(1)).stderr
    grow("three", SCRATCH, execution=two, env=step_of_two(0))
    assert run_of(tmp_path / "results" / "three")["provenance"] == "computed"
