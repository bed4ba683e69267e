"""Checkpoints of an unfinished job: when they are written, and which one the job goes on from when it is run again.

They lie in the job's work folder, which is named by its key, so no other job can find them::

    <work>/step-120/rank0.safetensors   one file a rank: its tensors, and its facts as JSON in the header
    <work>/step-120/state.json          written last: layout, size and SHA-256 of each file, metrics, facts, seconds

A folder is written under another name, synced to disk and renamed, so it is whole or absent; it is read only if every
digest is right, and the one before it otherwise. Nothing in it can run code.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipelines.runs.agreement import gather, highest, lowest_failing
from pipelines.runs.checkpoint_folder import Fault, commit, partial_of, read_rank, read_state, write_rank
from pipelines.runs.errors import RetraceError
from pipelines.runs.signals import STOPPED, PendingSignals

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.runs.job import Job
    from pipelines.runs.verb import Execution

KEPT = 2
NOTHING, WRITE, STOP = range(3)
NONE = -1
INTERVAL, WORK = "RETRACE_CHECKPOINT_SECONDS", "RETRACE_WORK"
# Of a job's time; a model so large that it takes longer to write is written less often than asked.
LARGEST_SHARE = 0.1


@dataclass(frozen=True)
class Checkpoint:
    """What this rank saved after a step: named tensors (on the CPU) and JSON facts."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


Capture = Callable[[], "tuple[dict[str, Tensor], dict[str, Any]]"]
"""Gives this rank's tensors (on any device, none sharing memory with another) and JSON facts."""


class Checkpoints:
    """The checkpoints of one job; made by ``Job.resumable()``.

    Every method is collective: with several ranks each calls it, torch.distributed being initialised.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._interval = _interval(job.execution)
        self._layout = _layout(job.execution, job.world_size)
        self._signals = PendingSignals()
        self._steps: list[int] = []
        self._last, self._cost = time.monotonic(), 0.0
        # Said once, not once a minute.
        self._failing = False

    def __enter__(self) -> Checkpoints:
        self._signals.__enter__()
        self._last = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.__exit__(kind, error, trace)
        if kind is None and self._signals.stop:
            raise SystemExit(STOPPED)

    def load(self) -> Checkpoint | None:
        """The newest sound checkpoint of this layout, or None; puts back the job's metrics, facts and seconds.

        run.json gets ``resumed_from_step``. Call it once, before the first ``after_step``.
        """
        job = self._job
        self._steps = self._find() if job.is_main else []
        while (step := highest(job, self._steps[-1] if self._steps else NONE)) != NONE:
            folder, fault = self._folder(step), ""
            state: dict[str, Any] = {}
            checkpoint = None
            try:
                state = read_state(folder)
                checkpoint = Checkpoint(step, *read_rank(folder, state, job.rank))
            except Fault as found:
                fault = str(found)
            # After this all have looked, and the first may remove it.
            if (says := lowest_failing(job, bool(fault))) is None:
                job.restore(state["metrics"], state["facts"], state["seconds"])
                job.record(resumed_from_step=step)
                job.say(f"resumed after step {step}, from {folder}")
                return checkpoint
            if says == job.rank:
                _warn(f"{fault}; leaving this checkpoint out")
            if job.is_main:
                shutil.rmtree(folder, ignore_errors=True)
                self._steps.pop()
        job.record(resumed_from_step=None)
        return None

    def after_step(self, step: int, capture: Capture) -> None:
        """Write a checkpoint if one is due or SIGUSR1 asks for it; on SIGTERM write one and end.

        Args:
            step: steps done so far.
            capture: called only when a checkpoint is written; its tensors may not change before this returns.

        Raises:
            SystemExit: with status 143, after SIGTERM.
        """
        wanted = STOP if self._signals.stop else WRITE if self._signals.write or self._is_due() else NOTHING
        wanted = highest(self._job, wanted)
        if wanted == NOTHING:
            return
        self._signals.write = False
        began = time.monotonic()
        written = self._write(step, capture)
        self._last = time.monotonic()
        self._cost = self._last - began
        if wanted == STOP:
            kept = f"run the same command again to go on from step {step}" if written else "nothing could be saved"
            self._job.say(f"stopped by SIGTERM after step {step}: {kept}")
            raise SystemExit(STOPPED)

    def _is_due(self) -> bool:
        wait = max(self._interval, self._cost / LARGEST_SHARE) if self._interval else 0.0
        return time.monotonic() - self._last >= wait

    def _write(self, step: int, capture: Capture) -> bool:
        job, folder = self._job, self._folder(step)
        tensors, facts = capture()
        fault, entry = "", (0, bytes(32))
        try:
            entry = write_rank(folder, job.rank, tensors, facts)
        except Fault as found:
            fault = str(found)
        # Waits until all are written.
        entries = [(size, bytes(sha256)) for size, *sha256 in gather(job, [entry[0], *entry[1]])]
        if job.is_main and all(size for size, _ in entries):
            state = {
                "step": step,
                "layout": self._layout,
                "metrics": job.metrics_text(),
                "facts": job.facts,
                "seconds": round(job.seconds(), 3),
            }
            try:
                commit(folder, entries, state)
                self._steps = [*(each for each in self._steps if each != step), step]
                self._prune()
            except Fault as found:
                fault = str(found)
        # No rank goes on before the first has renamed the folder.
        says = lowest_failing(job, bool(fault))
        if says == job.rank and not self._failing:
            _warn(
                f"no checkpoint after step {step} ({fault}); the job goes on and tries again: make room, or set {WORK}"
            )
        self._failing = says is not None
        if self._failing and job.is_main:
            shutil.rmtree(partial_of(folder), ignore_errors=True)
        return not self._failing

    def _prune(self) -> None:
        while len(self._steps) > KEPT:
            shutil.rmtree(self._folder(self._steps.pop(0)), ignore_errors=True)

    def _find(self) -> list[int]:
        """Steps of this layout's checkpoints, in order; what was half-written or is unreadable goes."""
        own: list[int] = []
        others: dict[int, dict[str, Any]] = {}
        for folder in self._job.work.glob("step-*"):
            number = folder.name.removeprefix("step-")
            try:
                if not number.isdecimal():
                    shutil.rmtree(folder, ignore_errors=True)
                    continue
                layout = read_state(folder)["layout"]
                if layout == self._layout:
                    own.append(int(number))
                else:
                    others[int(number)] = layout
            except Fault as fault:
                _warn(f"{fault}: leaving this checkpoint out")
                shutil.rmtree(folder, ignore_errors=True)
        if others and not own:
            step = max(others)
            then, now = others[step], self._layout
            changed = [f"{key} {then.get(key)} -> {now[key]}" for key in now if then.get(key) != now[key]]
            self._job.say(
                f"the checkpoint after step {step} is of another layout ({', '.join(changed)}), so this job starts "
                "from the beginning; run it in that layout to go on from there"
            )
        return sorted(own)

    def _folder(self, step: int) -> Path:
        return self._job.work / f"step-{step}"


def _interval(execution: Execution) -> float:
    """Seconds between checkpoints: the environment's, else the execution's."""
    given = os.environ.get(INTERVAL)
    if given is None:
        return execution.checkpoint_seconds
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise RetraceError(f"{INTERVAL} is {given!r}: give a number of seconds, 0 for a checkpoint after every step")
    return seconds


def _layout(execution: Execution, world_size: int) -> dict[str, Any]:
    """Settings under which the pieces of a checkpoint fit and going on gives the same bits."""
    device = execution.device
    if device == "auto":
        torch = sys.modules.get("torch")
        device = "cuda" if torch is not None and torch.cuda.is_available() else "cpu"
    # The sizes left say the rest.
    free = {"processes", "data_parallel_size", "device", "threads", "checkpoint_seconds"}
    return {"world_size": world_size, "device": device, **execution.model_dump(mode="json", exclude=free)}


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
