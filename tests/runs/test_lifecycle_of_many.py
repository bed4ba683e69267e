"""Jobs beside each other and jobs of several ranks: none does what another is doing, and each ends whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pipelines.runs.lock import job_lock
from tests.runs.artifacts import SCRATCH, left_in, object_of, run_of, wait_until

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
