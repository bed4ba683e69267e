"""What SIGTERM and SIGUSR1 do to a job: end it now, or, while it can be resumed, wait for the end of a step.

Slurm sends one of them some time before a job's limit (``--signal``), schedulers and torchrun send SIGTERM to end it.
"""

from __future__ import annotations

import os
import signal
from types import TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
STOPPED = 128 + signal.SIGTERM


def install_signal_handlers() -> None:
    """For a job that has nothing to save yet: SIGTERM ends it (status 143), SIGUSR1 is noted and changes nothing."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGUSR1, _note)
    # The process that starts the ranks holds SIGUSR1 back from them until they can take it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def is_orphan() -> bool:
    """Whether this is a rank whose launcher is gone: nobody waits for it any more."""
    launcher = os.environ.get("RETRACE_LAUNCHER")
    return launcher is not None and "RANK" in os.environ and os.getppid() != int(launcher)


class PendingSignals:
    """While entered, signals are kept for the end of a step; what was there before comes back on leaving.

    Attributes:
        stop: SIGTERM has come.
        write: SIGUSR1 has come; whoever acts on it sets it back.
    """

    def __init__(self) -> None:
        self.stop = self.write = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> PendingSignals:
        self._before = {number: signal.signal(number, self._keep) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _keep(self, number: int, frame: object) -> None:
        if number == signal.SIGUSR1:
            self.write = True
        elif is_orphan():
            # The other ranks end too: a step together with them might never be over.
            _terminate(number, frame)
        else:
            self.stop = True


def _terminate(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _note(_number: int, _frame: object) -> None:
    if os.environ.get("RANK", "0") == "0":
        # Not print: a handler may interrupt one.
        os.write(2, b"SIGUSR1: this job has no training step to save now, and goes on\n")
