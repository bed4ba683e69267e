"""Progress of a long job: a bar with time left when a person looks on, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

LINE_EVERY_SECONDS = 10.0


class Progress:
    """Context manager that reports ``advance`` calls; silent on every rank but the first.

    ``done`` units were done by an earlier attempt, and say nothing of the speed of this one.
    """

    def __init__(
        self, total: float, description: str, unit: str = "step", *, done: float = 0.0, enabled: bool = True
    ) -> None:
        self.total = total
        self.description = description
        self.unit = unit
        self.done = self._before = done
        self._interactive = enabled and sys.stderr.isatty()
        self._enabled = enabled
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        if self._interactive:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, completed=int(self.done), note="")
        return self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Report ``amount`` more units done; ``note`` is a short text such as ``loss 3.21``."""
        self.done += amount
        if self._interactive:
            self._bar.update(self._task, advance=amount, note=note)
        elif self._enabled:
            now = time.monotonic()
            if now - self._last_line >= LINE_EVERY_SECONDS:
                self._last_line = now
                rate = max(self.done - self._before, 1e-9) / (now - self._started)
                left = max(self.total - self.done, 0.0) / rate
                done = f"{self.done:.10g}/{self.total:.10g} {self.unit}"
                print(f"{self.description}: {done}, {left:.0f} s left {note}".rstrip(), file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._interactive:
            self._bar.stop()
        elif self._enabled and kind is None:
            seconds = time.monotonic() - self._started
            done = self.done - self._before
            print(f"{self.description}: {done:.10g} {self.unit}s in {seconds:.1f} s", file=sys.stderr, flush=True)
