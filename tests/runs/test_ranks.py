"""Jobs of several processes: torchrun on one machine, srun's tasks in Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.runs.errors import RetraceError
from pipelines.runs.ranks import in_slurm_step, join_slurm
from pipelines.runs.verb import Execution
from tests.runs.artifacts import wait_until

SCRATCH = {"method": {"name": "scratch"}}
TWO = {"processes": 2, "device": "cpu"}


def test_two_ranks_make_one_artifact(tree, run_cli, tmp_path):
    run_cli("growth", "train", "--out", tmp_path / "out", spec=SCRATCH, execution=TWO, cwd=tree)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["world_size"] == 2
    assert 0.5 < record["startup_seconds"] < 100, "ranks count from the process that started them"
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3, "only the first rank logs"
    run_cli("growth", "train", "--out", tmp_path / "alone", spec=SCRATCH, cwd=tree)
    assert json.loads((tmp_path / "alone" / "run.json").read_text())["key"] == record["key"]


def test_a_fault_on_every_rank_is_said_once_and_keeps_its_exit_status(tree, run_cli, tmp_path):
    done = run_cli(
        "growth",
        "train",
        "--out",
        tmp_path / "results" / "out",
        spec={**SCRATCH, "fault": "wrong input"},
        execution=TWO,
        cwd=tree,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("error: the base is too small") == 1
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_job_ends_every_rank_and_leaves_nothing(tree, tmp_path, number):
    """Also one that torchrun cannot pass on."""
    results = tmp_path / "results"
    # The second rank may come before the first one has made it.
    results.mkdir()
    out = results / "out"
    options = ["--spec", json.dumps({**SCRATCH, "fault": "wait"}), "--exec", json.dumps(TWO), "--out", str(out)]
    job = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "growth", "train", *options],
        cwd=tree,
        env={**os.environ, "RETRACE_WORK": str(tmp_path / "work"), "PYTHONPATH": str(tree)},
        stderr=subprocess.DEVNULL,
    )
    waiting = [results / "waiting0", results / "waiting1"]
    wait_until(lambda: all(each.exists() and each.read_text() for each in waiting))
    # Before its ranks are all registered, torchrun may lose a signal.
    time.sleep(1)
    job.send_signal(number)
    assert job.wait(timeout=60) == (128 + number if number == signal.SIGTERM else -number)
    wait_until(lambda: not any(Path("/proc", each.read_text()).exists() for each in waiting))
    assert sorted(results.iterdir()) == waiting


@pytest.fixture
def slurm(monkeypatch, tmp_path: Path):
    """The environment of the second task of an srun step of two, and a scontrol that knows its nodes."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        # Set first, so that what join_slurm sets is taken back after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$3" = "n[3-4]" ] && printf "n3\\nn4\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    step = {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_JOB_NODELIST": "n[1-4]",
        "SLURM_STEP_NODELIST": "n[3-4]",
    }
    for name, value in step.items():
        monkeypatch.setenv(name, value)


def test_the_tasks_of_srun_become_ranks(slurm, monkeypatch):
    assert in_slurm_step()
    join_slurm(Execution(processes=2))
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
    assert [os.environ[name] for name in names] == ["1", "0", "2", "n3"]
    port = os.environ["MASTER_PORT"]
    monkeypatch.delenv("MASTER_PORT")
    monkeypatch.setenv("SLURM_STEP_ID", "2")
    join_slurm(Execution(processes=2))
    assert os.environ["MASTER_PORT"] != port, "two steps of one allocation would meet on one port"


def test_another_number_of_tasks_is_refused(slurm):
    with pytest.raises(RetraceError, match=r"processes is 4 but srun started 2"):
        join_slurm(Execution(processes=4))


def test_an_sbatch_script_alone_is_no_step(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert not in_slurm_step()


def test_sigusr1_before_the_ranks_can_take_it_ends_nothing(tree, tmp_path):
    options = ["--spec", json.dumps(SCRATCH), "--exec", json.dumps(TWO), "--out", str(tmp_path / "out")]
    job = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "growth", "train", *options],
        cwd=tree,
        env={**os.environ, "RETRACE_WORK": str(tmp_path / "work"), "PYTHONPATH": str(tree)},
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len(psutil.Process(job.pid).children()) == 2)
    while job.poll() is None:
        job.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
    assert job.returncode == 0
    assert (tmp_path / "out" / "run.json").exists()


def test_the_rank_that_was_killed_is_named(tree, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    options = ["--spec", json.dumps({**SCRATCH, "fault": "wait"}), "--exec", json.dumps(TWO)]
    log = tmp_path / "log"
    with log.open("w") as messages:
        job = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "growth", "train", *options, "--out", str(results / "out")],
            cwd=tree,
            env={**os.environ, "RETRACE_WORK": str(tmp_path / "work"), "PYTHONPATH": str(tree)},
            stderr=messages,
        )
    waiting = [results / "waiting0", results / "waiting1"]
    wait_until(lambda: all(each.exists() and each.read_text() for each in waiting))
    os.kill(int(waiting[1].read_text()), signal.SIGKILL)
    assert job.wait(timeout=60) == 128 + signal.SIGKILL
    assert "rank 1 was ended by SIGKILL; the other ranks were stopped" in log.read_text()
    assert sorted(results.iterdir()) == waiting
