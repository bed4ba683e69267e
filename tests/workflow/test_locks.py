"""Snakemake's lock on a folder: cleared after a SIGKILL, never taken from one that lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workflow.locks import take_place

Snakemake = Callable[..., subprocess.CompletedProcess[str]]

TARGET = "results/data/prose/seed0"


@pytest.fixture
def working(checkout: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Snakemake at work in the checkout, on a job that does not end by itself."""
    entrance = checkout / "pipelines" / "__main__.py"
    wait = "import os, time\n\ntime.sleep(float(os.environ.get('JOBS_WAIT', 0)))\n"
    entrance.write_text(wait + entrance.read_text(encoding="utf-8"), encoding="utf-8")
    process = subprocess.Popen(
        [Path(sys.executable).parent / "snakemake", "--cores", "1", TARGET, "--configfile", "params/smoke.yaml"],
        cwd=checkout,
        env={**os.environ, "JOBS_WAIT": "120"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not (checkout / "results" / "logs" / "data" / "prose" / "seed0.log").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_the_lock_of_a_killed_snakemake_is_cleared_with_a_message_and_the_next_call_goes_on(
    checkout: Path, working: subprocess.Popen[bytes], snakemake: Snakemake
) -> None:
    working.kill()
    working.wait()
    assert list((checkout / ".snakemake" / "locks").glob("*.output.lock"))
    done = snakemake(checkout, TARGET)
    assert done.returncode == 0, done.stderr
    assert f"killed here (process {working.pid})" in done.stderr
    assert (checkout / TARGET / "run.json").is_file()
    assert not list((checkout / ".retrace" / "snakemake").glob("*.pid"))


def test_the_lock_of_a_live_snakemake_stays_and_the_second_one_is_refused(
    checkout: Path, working: subprocess.Popen[bytes], snakemake: Snakemake
) -> None:
    locks = sorted((checkout / ".snakemake" / "locks").iterdir())
    done = snakemake(checkout, TARGET)
    assert done.returncode != 0
    assert "cannot be locked" in done.stderr
    assert "killed" not in done.stderr
    assert sorted((checkout / ".snakemake" / "locks").iterdir()) == locks
    assert working.poll() is None


def _lock(folder: Path) -> Path:
    lock = folder / ".snakemake" / "locks" / "0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    (folder / ".retrace" / "snakemake").mkdir(parents=True)
    return lock


def test_a_lock_that_another_host_may_hold_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = _lock(tmp_path)
    (tmp_path / ".retrace" / "snakemake" / "elsewhere.org.1.pid").touch()
    (tmp_path / ".retrace" / "snakemake" / f"{os.uname().nodename}.2.pid").touch()
    take_place(tmp_path)
    assert lock.exists()
    assert capsys.readouterr().err == ""


def test_a_lock_of_which_nobody_is_known_to_have_been_killed_stays(tmp_path: Path) -> None:
    lock = _lock(tmp_path)
    take_place(tmp_path)
    assert lock.exists()


def test_a_lock_stays_while_one_of_two_lives(tmp_path: Path) -> None:
    lock = _lock(tmp_path)
    # This process is the live one.
    take_place(tmp_path)
    (tmp_path / ".retrace" / "snakemake" / f"{os.uname().nodename}.2.pid").touch()
    take_place(tmp_path)
    assert lock.exists()
