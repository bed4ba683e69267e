"""One process a job: a lock file beside the job's work folder, which ends with whoever holds it."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

# Files that this process holds for as long as it lives.
_held: list[IO[str]] = []


@contextmanager
def job_lock(work: Path) -> Iterator[bool]:
    """Hold the lock of the job with this work folder; yields True if another process had to be waited for.

    Where files cannot be locked the job goes on without: two that compute the same both succeed.
    """
    path, ranks = lock_file(work), ranks_file(work)
    waited = False
    file = None
    try:
        while file is None or not _is_at(file, path):
            if file is not None:
                file.close()
            file = _open(path)
            waited |= _lock(file, "the same job, which is computed by")
        _sign(file)
        if ranks.exists():
            # Of a process that died before its ranks; they would write to the same work folder.
            with _open(ranks) as theirs:
                _lock(theirs, "ranks of an earlier attempt to end")
    except OSError:
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()
        file = None
    try:
        yield waited
    finally:
        if file is not None:
            ranks.unlink(missing_ok=True)
            # Removed while held: whoever waits for it sees that it is gone, and makes a new one.
            if _is_at(file, path):
                path.unlink()
            file.close()


def hold_rank(work: Path) -> None:
    """Let the next process of this job wait for this rank, should the process that started it die first."""
    with suppress(OSError):
        file = _open(ranks_file(work))
        _held.append(file)
        fcntl.flock(file, fcntl.LOCK_SH)


def remove_unfinished(work: Path) -> None:
    """Delete what killed attempts left of a job that is finished elsewhere, unless someone computes it here."""
    lock, ranks = lock_file(work), ranks_file(work)
    if work.exists() or lock.exists() or ranks.exists():
        with suppress(OSError), _open(lock) as file, _open(ranks) as theirs:
            for each in (file, theirs):
                fcntl.flock(each, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(work, ignore_errors=True)
            ranks.unlink()
            lock.unlink()


def lock_file(work: Path) -> Path:
    """The file that the one process of a job holds."""
    return work.with_name(f"{work.name}.lock")


def ranks_file(work: Path) -> Path:
    """The file that every rank of a job holds."""
    return work.with_name(f"{work.name}.ranks")


def _open(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+", encoding="utf-8")


def _lock(file: IO[str], what: str) -> bool:
    """Lock a file for this process alone; True if that took waiting, of which a line on stderr tells."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        print(f"waiting for {what} {file.read()}".rstrip(), file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    return False


def _sign(file: IO[str]) -> None:
    """Say in the file who holds it; on a full disk nobody will know."""
    with suppress(OSError):
        os.truncate(file.fileno(), 0)
        os.write(file.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
