"""Snakemake's lock on the working folder, cleared when the one that took it was killed, and only then.

Every Snakemake of ours says that it is there before it can lock anything: by a file of its own, on which it holds a
lock of the operating system's for as long as it lives. A file that nobody holds is one of a process that was killed.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import sys
from pathlib import Path


def take_place(folder: Path) -> None:
    """Say that this process works in ``folder``, and clear the lock there if killed ones left it.

    Where a live process may hold it, on this host or another, it stays, and Snakemake says what to do. On a file
    system without locks nothing is done either.
    """
    presences = folder / ".retrace" / "snakemake"
    try:
        presences.mkdir(parents=True, exist_ok=True)
        with (presences / "turn").open("w", encoding="utf-8") as turn:
            # One at a time, so that two that come at once do not take each other for dead.
            fcntl.flock(turn, fcntl.LOCK_EX)
            _clear(presences, folder / ".snakemake" / "locks")
            _appear(presences)
    except OSError:
        return


def _clear(presences: Path, locks: Path) -> None:
    others = sorted(presences.glob("*.pid"))
    dead = [path for path in others if _is_dead(path)]
    left = list(locks.glob("*.lock"))
    if left and (not dead or len(dead) < len(others)):
        return
    for path in [*left, *dead]:
        path.unlink(missing_ok=True)
    if left:
        killed = ", ".join(path.stem.rpartition(".")[2] for path in dead)
        print(f"Snakemake was killed here (process {killed}): its lock is cleared.", file=sys.stderr, flush=True)


def _is_dead(presence: Path) -> bool:
    """Whether it is of a process on this host, and no process holds it."""
    if presence.stem.rpartition(".")[0] != os.uname().nodename:
        return False
    with presence.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _appear(presences: Path) -> None:
    path = presences / f"{os.uname().nodename}.{os.getpid()}.pid"
    # Never closed: the system lets the lock go when the process ends, however it ends.
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    atexit.register(path.unlink, missing_ok=True)
