"""Checkpoints of unfinished jobs: what comes back is what was saved, or the one before, or nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from pipelines.runs import checkpoints as module
from pipelines.runs.checkpoint_folder import Fault
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import Job
from pipelines.runs.verb import Execution
from tests.runs.damage import flip

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make_job(tmp_path, monkeypatch):
    """A job's next attempt: a new object, an empty folder to write into, the same work folder."""
    monkeypatch.setenv("RETRACE_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("RETRACE_CHECKPOINT_SECONDS", raising=False)
    attempts = 0

    def make(**execution) -> Job:
        nonlocal attempts
        attempts += 1
        job = Job(tmp_path / f"attempt{attempts}", "key", Execution(**{"checkpoint_seconds": 0, **execution}))
        job.out.mkdir()
        return job

    return make


class Counter:
    """A training that adds up its steps, one tensor and one number."""

    def __init__(self, job: Job) -> None:
        self.job, self.sum, self.total, self.captures = job, torch.zeros(3), 0, 0

    def capture(self):
        self.captures += 1
        return {"sum": self.sum, "half": self.sum.bfloat16()}, {"total": self.total, "nothing": None}

    def run(self, last: int, at=None) -> int:
        """Train up to a step; ``at`` is called with each step before its checkpoint. Returns the step resumed from."""
        with closing(self.job), self.job.resumable() as checkpoints:
            found = checkpoints.load()
            if found is not None:
                self.sum, self.total = found.tensors["sum"], found.facts["total"]
                assert torch.equal(found.tensors["half"], self.sum.bfloat16())
            first = found.step if found else 0
            for step in range(first + 1, last + 1):
                self.sum += step / 3
                self.total += step
                self.job.log(step=step, loss=1 / step)
                self.job.record(total=self.total)
                if at:
                    at(step)
                checkpoints.after_step(step, self.capture)
        return first


def folders(job: Job) -> list[str]:
    return sorted(each.name for each in job.work.iterdir()) if job.work.exists() else []


def test_the_next_attempt_goes_on_from_the_same_numbers_lines_and_facts(make_job):
    whole = Counter(make_job(checkpoint_seconds=1000))
    assert whole.run(6) == 0
    assert whole.captures == 0, "none was due"

    Counter(make_job()).run(4)
    resumed = Counter(make_job())
    assert resumed.run(6) == 4
    assert torch.equal(resumed.sum, whole.sum)
    assert resumed.total == whole.total
    metrics = [(each.job.out / "metrics.jsonl").read_bytes() for each in (whole, resumed)]
    assert metrics[0] == metrics[1]
    assert resumed.job.facts == {"total": 21, "resumed_from_step": 4}
    assert whole.job.facts == {"total": 21, "resumed_from_step": None}


def test_lines_logged_after_the_last_checkpoint_are_not_doubled(make_job):
    def fault(step):
        if step == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        Counter(make_job()).run(5, fault)
    resumed = make_job()
    assert Counter(resumed).run(5) == 2
    lines = (resumed.out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_seconds_are_those_of_all_attempts(make_job):
    first = make_job()
    first.started -= 100
    Counter(first).run(2)
    second = make_job()
    second.started -= 10
    Counter(second).run(3)
    assert second.seconds_before == pytest.approx(100, abs=5)
    assert second.seconds() == pytest.approx(110, abs=5)


def test_the_last_two_are_kept(make_job):
    job = make_job()
    Counter(job).run(5)
    assert folders(job) == ["step-4", "step-5"]
    assert Counter(make_job()).run(7) == 5
    assert folders(job) == ["step-6", "step-7"]


def test_a_checkpoint_is_due_after_the_interval_of_the_execution_or_the_environment(make_job, monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)

    def ten_seconds(step):
        nonlocal now
        now += 10

    for interval, environment, expected in ((25, None, 2), (1000, "15", 3), (0, "1000", 0), (10, None, 6)):
        if environment:
            monkeypatch.setenv("RETRACE_CHECKPOINT_SECONDS", environment)
        else:
            monkeypatch.delenv("RETRACE_CHECKPOINT_SECONDS", raising=False)
        counter = Counter(make_job(checkpoint_seconds=interval))
        with counter.job.resumable() as checkpoints:
            for step in range(6):
                ten_seconds(step)
                checkpoints.after_step(step, counter.capture)
        assert counter.captures == expected, (interval, environment)


def test_writing_takes_at_most_a_tenth_of_the_time_unless_every_step_is_asked_for(make_job, monkeypatch):
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    captures = {}
    for interval in (1, 0):
        counter = Counter(make_job(checkpoint_seconds=interval))

        def slow(counter=counter):
            nonlocal now
            now += 100
            return counter.capture()

        with counter.job.resumable() as checkpoints:
            for step in range(2010):
                now += 1
                checkpoints.after_step(step, slow) if interval or step < 5 else None
        captures[interval] = counter.captures
    # One at once, then one every 1000 seconds.
    assert captures == {1: 3, 0: 5}


@pytest.mark.parametrize("text", ["often", "-1", "nan"])
def test_a_wrong_interval_in_the_environment_is_refused_by_name(make_job, monkeypatch, text):
    monkeypatch.setenv("RETRACE_CHECKPOINT_SECONDS", text)
    with pytest.raises(RetraceError, match="RETRACE_CHECKPOINT_SECONDS"):
        make_job().resumable()


def test_a_step_with_nothing_to_write_costs_microseconds(make_job):
    counter = Counter(make_job(checkpoint_seconds=1000))
    with counter.job.resumable() as checkpoints:
        started = time.perf_counter()
        for step in range(1000):
            checkpoints.after_step(step, counter.capture)
        each = (time.perf_counter() - started) / 1000
    assert each < 20e-6


def test_sigusr1_writes_one_and_the_training_goes_on(make_job):
    counter = Counter(make_job(checkpoint_seconds=1000))
    counter.run(4, lambda step: os.kill(os.getpid(), signal.SIGUSR1) if step == 2 else None)
    assert counter.captures == 1
    assert folders(counter.job) == ["step-2"]
    assert counter.total == 10


def test_sigterm_writes_one_and_ends_with_143(make_job, capsys):
    counter = Counter(make_job(checkpoint_seconds=1000))
    with pytest.raises(SystemExit) as ended:
        counter.run(4, lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None)
    assert ended.value.code == 143
    assert "stopped by SIGTERM after step 2: run the same command again" in capsys.readouterr().err
    assert Counter(make_job()).run(4) == 2


def test_sigterm_after_the_last_step_still_ends_the_job(make_job):
    with pytest.raises(SystemExit) as ended, make_job().resumable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143


def test_signals_mean_what_they_meant_before_once_training_is_left(make_job):
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)]
    with make_job().resumable():
        assert signal.getsignal(signal.SIGTERM) != handlers[0]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)] == handlers


def test_a_half_written_checkpoint_is_never_loaded(make_job):
    job = make_job()
    Counter(job).run(4)
    # What a kill leaves: files without state.json, under the partial name.
    (job.work / "step-4").rename(job.work / "step-4.partial")
    (job.work / "step-4.partial" / "state.json").unlink()
    assert Counter(make_job()).run(4) == 3
    assert folders(job) == ["step-3", "step-4"]


@pytest.mark.parametrize("file", ["rank0.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "empty"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_loaded(make_job, capsys, file, damage):
    job = make_job()
    whole = Counter(job)
    whole.run(4)
    damaged = job.work / "step-4" / file
    if damage == "flipped":
        # In the tensors' bytes, or in the middle of the facts.
        flip(damaged, -1 if file != "state.json" else damaged.read_text().index('"total": 10') + 9)
    elif damage == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[: -3 if damage == "truncated" else 0])
    resumed = Counter(make_job())
    assert resumed.run(4) == 3
    assert torch.equal(resumed.sum, whole.sum)
    message = capsys.readouterr().err
    assert message.count("warning") == 1
    assert f"step-4/{file} is" in message or f"cannot read {damaged}" in message


def test_when_all_are_damaged_the_job_starts_from_the_beginning(make_job):
    job = make_job()
    Counter(job).run(4)
    for step in (3, 4):
        flip(job.work / f"step-{step}" / "rank0.safetensors")
    resumed = Counter(make_job())
    assert resumed.run(4) == 0
    assert resumed.total == 10
    assert resumed.job.facts["resumed_from_step"] is None


def test_another_layout_starts_anew_says_so_and_leaves_the_other_its_checkpoints(make_job, capsys):
    job = make_job(micro_batch_size=2)
    Counter(job).run(3)
    other = Counter(make_job(micro_batch_size=4))
    assert other.run(1) == 0
    assert "after step 3 is of another layout (micro_batch_size 2 -> 4)" in capsys.readouterr().err
    assert folders(job) == ["step-1", "step-2", "step-3"]
    assert Counter(make_job(micro_batch_size=2, threads=2)).run(4) == 3


def test_what_is_not_json_or_safetensors_is_never_opened(make_job):
    """A pickle under a checkpoint's name is damage like any other."""
    job = make_job()
    Counter(job).run(2)
    trap = job.out / "trap"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    torch.save({"sum": Trap()}, job.work / "step-2" / "rank0.safetensors")
    assert Counter(make_job()).run(2) == 1
    assert not trap.exists()


def test_faults_while_writing_are_one_warning_until_one_is_written_again(make_job, capsys, monkeypatch):
    counter = Counter(make_job())
    commit = module.commit

    def full(folder, files, state):
        if state["step"] in (2, 3, 5):
            raise Fault("cannot write state.json: No space left on device")
        commit(folder, files, state)

    monkeypatch.setattr(module, "commit", full)
    counter.run(6)
    warnings = capsys.readouterr().err.splitlines()
    assert [line.split("(")[0] for line in warnings] == [
        "warning: no checkpoint after step 2 ",
        "warning: no checkpoint after step 5 ",
    ]
    assert folders(counter.job) == ["step-4", "step-6"]
    assert counter.total == 21


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: run as root to see a disk fill up")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_checkpoints_and_nothing_else(make_job, capsys, monkeypatch, small_disk):
    monkeypatch.setenv("RETRACE_WORK", str(small_disk))
    counter = Counter(make_job())
    fill = small_disk / "fill"

    def at(step):
        if step == 3:
            fill.write_bytes(bytes(204 * 1024))
        elif step == 5:
            fill.unlink()

    # 20 KB a checkpoint: two fit, and none beside the filling.
    counter.sum = torch.zeros(2500)
    counter.run(6, at)
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("warning: no checkpoint after step 3 (cannot write ")
    assert "No space left on device" in message
    assert "RETRACE_WORK" in message
    assert folders(counter.job) == ["step-5", "step-6"]
    assert counter.total == 21
