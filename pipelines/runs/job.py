"""What an implementation sees of its run, and how its record and metrics are read back."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

from pipelines.runs.checkpoints import Checkpoints
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import ROOT, RUN_RECORD
from pipelines.runs.progress import Progress
from pipelines.runs.verb import Execution

METRICS = "metrics.jsonl"


class Job:
    """What an implementation sees of its run.

    Attributes:
        out: folder to write the artifact into (renamed into place when the job succeeds).
        work: folder for checkpoints of this unfinished job, named by the key; survives a crash.
        execution: how to run; must not change results.
        rank, world_size: this process among the job's processes.
        key: the job's identity.
        seconds_before: what earlier attempts had spent up to the checkpoint that this one goes on from.
    """

    def __init__(self, out: Path, key: str, execution: Execution) -> None:
        self.out = out
        self.key = key
        self.execution = execution
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.work = work_folder(key)
        self.facts: dict[str, Any] = {}
        self.started = time.time()
        self.seconds_before = 0.0
        self.first_step_at: float | None = None
        self._metrics: IO[str] | None = None

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes artifacts and logs."""
        return self.rank == 0

    def log(self, **metrics: float | int | str | list[float] | None) -> None:
        """Append a line to metrics.jsonl (first rank only). Give ``step``, and ``tokens`` and ``flops`` where known."""
        self._begin()
        if self.is_main:
            if self._metrics is None:
                self._metrics = (self.out / METRICS).open("a", encoding="utf-8")
            self._metrics.write(json.dumps(metrics) + "\n")
            self._metrics.flush()

    def record(self, **facts: Any) -> None:
        """Put facts into run.json: tokens, flops, backend, layout, certificates."""
        self.facts.update(facts)

    def progress(self, total: float, description: str, unit: str = "step", done: float = 0.0) -> Progress:
        """A progress bar on the first rank, ``done`` units in; making it marks the job's first step."""
        self._begin()
        return Progress(total, description, unit, done=done, enabled=self.is_main)

    def resumable(self) -> Checkpoints:
        """A context in which SIGTERM and SIGUSR1 wait for the end of a step, and steps leave checkpoints::

        with job.resumable() as checkpoints:
            resumed = checkpoints.load()
            for step in range(resumed.step + 1 if resumed else 1, last + 1):
                ...
                checkpoints.after_step(step, capture)
        """
        return Checkpoints(self)

    def seconds(self) -> float:
        """Spent on this job so far, by all its attempts."""
        return self.seconds_before + time.time() - self.started

    def metrics_text(self) -> str:
        """metrics.jsonl as logged so far (first rank)."""
        path = self.out / METRICS
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def restore(self, metrics_text: str, facts: dict[str, Any], seconds: float) -> None:
        """Go on from what an earlier attempt had logged, recorded and spent."""
        if self.is_main:
            self.close()
            self._metrics = None
            (self.out / METRICS).write_text(metrics_text, encoding="utf-8")
        self.facts.update(facts)
        self.seconds_before = seconds

    def say(self, text: str) -> None:
        """A line for the reader of the log (first rank only)."""
        if self.is_main:
            print(text, file=sys.stderr, flush=True)

    def _begin(self) -> None:
        if self.first_step_at is None:
            self.first_step_at = time.time()

    def close(self) -> None:
        """Close metrics.jsonl."""
        if self._metrics is not None:
            self._metrics.close()


def work_folder(key: str) -> Path:
    """Where the checkpoints of an unfinished job lie."""
    return Path(os.environ.get("RETRACE_WORK", ROOT / ".retrace" / "work")) / key


def read_record(artifact: Path) -> dict[str, Any]:
    """The run record of an artifact."""
    path = artifact / RUN_RECORD
    if not path.is_file():
        raise RetraceError(f"{artifact} has no {RUN_RECORD}: it is not an artifact of Retrace, or was not finished")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def read_metrics(artifact: Path) -> list[dict[str, Any]]:
    """Every logged line of an artifact; the last one is final."""
    path = artifact / METRICS
    if not path.is_file():
        raise RetraceError(f"{path} is missing: the job of {artifact} did not finish; run it again")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
