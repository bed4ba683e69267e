"""Kills over a run of the graph: signals to a job, to one of its ranks or to Snakemake, at random moments.

Snakemake is called again and again until it finishes. Every kill of the plan waits for a running job of its stage.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGUSR1, Signals
from typing import Literal

import psutil

MARK = "RETRACE_FAULT_RUN"
LOOK_SECONDS, POLL_SECONDS = 0.2, 0.01
# Of commands that leave no run record.
UNKNOWN_SECONDS = 2.0
RESUMED = "resumed after step"
# Ways to call it: with retries, one call absorbs several kills.
CALLS = (["--retries", "3"], ["--retries", "2", "--keep-going"], ["--keep-going"])


@dataclass(frozen=True)
class Fault:
    """One planned kill.

    Attributes:
        stage: it waits for a job of this stage.
        victim: that job's first process, one of its ranks, or Snakemake while the job runs.
        saved: it waits until the job has written a checkpoint, and else for a random moment of the job's time.
    """

    stage: str
    signal: Signals
    victim: Literal["job", "rank", "snakemake"] = "job"
    saved: bool = False


@dataclass(frozen=True)
class Reference:
    """What is known of a job from an undisturbed run.

    Attributes:
        steps: training steps, 0 where there are none.
    """

    key: str
    seconds: float
    steps: int


@dataclass(eq=False)
class RunningJob:
    """A process of ``python -m pipelines`` that runs a verb.

    Attributes:
        fault: the kill that waits for it, if any: until the time ``at``, or until step ``step`` is saved.
    """

    process: psutil.Process
    stage: str
    out: str
    fault: Fault | None = None
    at: float = 0.0
    step: int = 0


@dataclass
class Tally:
    """What was done and what came of it."""

    seed: int
    strikes: list[Fault] = field(default_factory=list)
    resumes: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    seconds: float = 0.0

    @property
    def kills(self) -> list[Fault]:
        """The signals that end a process; SIGUSR1 asks a training for a checkpoint, and it goes on."""
        return [each for each in self.strikes if each.signal != SIGUSR1]

    def __str__(self) -> str:
        def counted(counter: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()) if count)

        return "\n".join(
            [
                f"{len(self.kills)} kills and {len(self.strikes) - len(self.kills)} SIGUSR1 in {self.seconds:.0f} s, "
                f"{self.calls} calls of Snakemake (seed {self.seed})",
                f"  by signal: {counted(Counter(each.signal.name for each in self.strikes))}",
                f"  by victim: {counted(Counter(each.victim for each in self.strikes))}",
                f"  by stage: {counted(Counter(each.stage for each in self.strikes))}",
                f"  after a checkpoint: {sum(each.saved for each in self.strikes)}",
                f"  resumed: {counted(self.resumes)}",
            ]
        )


class FaultRun:
    """One disturbed run in a copy of the checkout.

    Args:
        checkout: has a store and a work folder of its own.
        target: what Snakemake is to make.
        reference: by artifact, from an undisturbed run of the same graph.
        environment: of Snakemake and all it starts.
        limit: seconds after which it is given up.
    """

    def __init__(
        self,
        checkout: Path,
        target: list[str],
        plan: list[Fault],
        reference: Mapping[str, Reference],
        environment: Mapping[str, str],
        seed: int,
        limit: float,
    ) -> None:
        self.checkout = checkout
        self.target = target
        self.plan = list(plan)
        self.reference = reference
        self.environment = {**environment, MARK: str(checkout), "RETRACE_CHECKPOINT_SECONDS": "0"}
        self.random = random.Random(seed)
        self.tally = Tally(seed)
        self._started = time.monotonic()
        self._deadline = self._started + limit
        self._jobs: dict[int, RunningJob] = {}
        self._reach: dict[str, float] = {}

    def run(self) -> Tally:
        """Call Snakemake until it succeeds; nothing it started is left running.

        Raises:
            AssertionError: it failed though nothing was killed, or time is up.
        """
        try:
            while not self._call():
                pass
            self._wait_for_orphans()
        finally:
            for process in self._marked():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        for path in (self.checkout / "results").rglob("run.json"):
            record = json.loads(path.read_text(encoding="utf-8"))
            self.tally.resumes[record["stage"]] += record.get("resumed_from_step") is not None
        self.tally.seconds = time.monotonic() - self._started
        return self.tally

    def _said(self) -> str:
        """The end of what the last call said."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-6000:]

    def _call(self) -> bool:
        """One call of Snakemake, with kills on the way. Returns whether it made everything."""
        self.tally.calls += 1
        self._log = self.checkout / f"call{self.tally.calls}.log"
        options = self.random.choice(CALLS)
        command = ["snakemake", *self.target, "--cores", "2", *options]
        struck = len(self.tally.strikes)
        with self._log.open("wb") as output:
            snakemake = subprocess.Popen(
                command, cwd=self.checkout, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        looked = 0.0
        while snakemake.poll() is None:
            assert time.monotonic() < self._deadline, f"time is up\n{self.tally}\n{self._said()}"
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                self._look(snakemake)
            for job in list(self._jobs.values()):
                if self._is_time(job):
                    self._strike(job, snakemake)
            time.sleep(POLL_SECONDS)
        for pid in list(self._jobs):
            self._forget(pid)
        failed = snakemake.returncode != 0
        assert not failed or len(self.tally.strikes) > struck, f"failed although nothing was killed\n{self._said()}"
        return not failed

    def _look(self, snakemake: subprocess.Popen[bytes]) -> None:
        """Find the jobs that have started, and those that have ended."""
        with suppress(psutil.NoSuchProcess):
            found = {each.process.pid: each for each in _jobs_below(psutil.Process(snakemake.pid))}
            for pid in self._jobs.keys() - found.keys():
                self._forget(pid)
            for pid in found.keys() - self._jobs.keys():
                self._jobs[pid] = found[pid]
                self._plan_for(found[pid])

    def _plan_for(self, job: RunningJob) -> None:
        fitting = [each for each in self.plan if each.stage == job.stage]
        is_first = job.stage not in {each.stage for each in self.tally.strikes if each.saved}
        if is_first:
            # A stage may have few jobs, and each is to be resumed at least once.
            fitting = [each for each in fitting if each.saved and each.signal != SIGUSR1] or fitting
        if not fitting:
            return
        job.fault = self.random.choice(fitting)
        self.plan.remove(job.fault)
        known = self.reference.get(job.out)
        if job.fault.saved:
            assert known is not None, job
            done = max(self._saved_steps(job), default=0)
            job.step = done + 1 if is_first else self.random.randint(done + 1, max(done + 1, known.steps - 2))
        else:
            seconds = (known.seconds if known else UNKNOWN_SECONDS) * self._reach.get(job.stage, 1.0)
            job.at = time.monotonic() + self.random.uniform(0, seconds)

    def _forget(self, pid: int) -> None:
        """A job has ended; the kill that waited for it waits for another, and comes sooner."""
        job = self._jobs.pop(pid)
        if job.fault is not None:
            self.plan.append(job.fault)
            self._reach[job.stage] = self._reach.get(job.stage, 1.0) / 2

    def _is_time(self, job: RunningJob) -> bool:
        if job.fault is None:
            return False
        if job.fault.saved:
            return any(step >= job.step for step in self._saved_steps(job))
        return time.monotonic() >= job.at

    def _saved_steps(self, job: RunningJob) -> list[int]:
        """Steps of the job's checkpoints that are whole."""
        work = self.checkout / ".retrace" / "work" / self.reference[job.out].key
        return [int(state.parent.name.removeprefix("step-")) for state in work.glob("step-*[0-9]/state.json")]

    def _strike(self, job: RunningJob, snakemake: subprocess.Popen[bytes]) -> None:
        fault = job.fault
        assert fault is not None
        try:
            log = Path(f"/proc/{job.process.pid}/fd/2")
            has_resumed = RESUMED in log.read_text(encoding="utf-8", errors="replace")
            victims = {"job": [job.process], "rank": list(_ranks(job)), "snakemake": [psutil.Process(snakemake.pid)]}
            if not victims[fault.victim]:
                return
            # Found by its command line; psutil looks at its start time again, so that no other process of that number
            # is ever signalled.
            self.random.choice(victims[fault.victim]).send_signal(fault.signal)
        except (psutil.NoSuchProcess, OSError):
            return
        job.fault = None
        self.tally.strikes.append(fault)
        if (fault.victim, fault.signal) == ("snakemake", SIGKILL):
            snakemake.wait()
            if self.random.random() < 0.5:
                for process in self._marked():
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
        elif fault.victim != "snakemake" and fault.signal != SIGUSR1:
            self.tally.resumes[job.stage] += has_resumed

    def _wait_for_orphans(self) -> None:
        """Jobs of a Snakemake that was killed go on; they have to end by themselves."""
        while left := list(self._marked()):
            assert time.monotonic() < self._deadline, f"still running: {[each.cmdline() for each in left]}"
            time.sleep(POLL_SECONDS)

    def _marked(self) -> Iterator[psutil.Process]:
        """Every process that a call of this run has started, directly or not."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.checkout) and process.status() != psutil.STATUS_ZOMBIE:
                    yield process


def _jobs_below(snakemake: psutil.Process) -> Iterator[RunningJob]:
    for process in snakemake.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            job = _job(process)
            # Ranks have the command line of the process that starts them.
            if job is not None and _job(process.parent()) is None:
                yield job


def _ranks(job: RunningJob) -> Iterator[psutil.Process]:
    return (each for each in job.process.children(recursive=True) if _job(each) is not None)


def _job(process: psutil.Process | None) -> RunningJob | None:
    words = process.cmdline() if process else []
    if "-m" not in words[:3] or "pipelines" not in words[:4]:
        return None
    stage = words[words.index("pipelines") + 1]
    out = words[words.index("--out") + 1] if "--out" in words[:-1] else ""
    return RunningJob(process, stage, out)
