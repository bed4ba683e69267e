"""How the store's commands speak: bytes, seconds and counts in words, a bar while bytes move, common options."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import ROOT
from pipelines.runs.progress import LINE_EVERY_SECONDS
from pipelines.runs.remote import Remote, open_remote
from pipelines.runs.store import Store, open_store

Tell = Callable[[int], object]

configfile = click.option(
    "--configfile",
    "configfiles",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="overlay of params.yaml, as given to snakemake; repeat it for several",
)
remote_name = click.option("--remote", metavar="NAME", help="a remote of `dvc remote list`  [default: DVC's default]")


def command(name: str, examples: str, **settings: Any) -> Callable[[Callable[..., None]], click.Command]:
    """A click command whose help is its function's docstring, with examples of use below."""
    lines = "\n".join(f"  python -m pipelines store {line}" for line in examples.strip().splitlines())
    return click.command(name, epilog=f"\b\nExamples:\n{lines}", **settings)


def need_store() -> Store:
    """The store here, or a refusal that says why there is none."""
    store = open_store(ROOT)
    if store is None:
        raise RetraceError("there is no store: RETRACE_STORE is off, or the checkout has no .dvc (`dvc init` makes it)")
    return store


def need_remote(name: str | None) -> Remote:
    """The remote, or a refusal that says how to set one."""
    remote = open_remote(ROOT, name)
    if remote is None:
        raise RetraceError("no remote is set: `dvc remote add -d NAME URL` (a folder, ssh://, s3://...) sets one")
    return remote


def in_bytes(number: float) -> str:
    """``12.3 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def in_seconds(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def count(number: int, noun: str) -> str:
    """``1 artifact``, ``2 artifacts``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(names: list[str], most: int = 5) -> str:
    """A list for people: all of a few, the first of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextmanager
def byte_bar(description: str, total: int) -> Iterator[Tell]:
    """A bar of bytes when a person looks on, a line now and then in a log; gives what is to be told of bytes done."""
    if not sys.stderr.isatty():
        yield _log_lines(description, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda number: bar.advance(task, number)


def _log_lines(description: str, total: int) -> Tell:
    done, last = 0, time.monotonic()

    def tell(number: int) -> None:
        nonlocal done, last
        done += number
        if time.monotonic() - last >= LINE_EVERY_SECONDS:
            last = time.monotonic()
            print(f"{description}: {in_bytes(done)} of {in_bytes(total)}", file=sys.stderr, flush=True)

    return tell
