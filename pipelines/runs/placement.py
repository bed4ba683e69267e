"""Folders that are whole or absent: written beside their place, under a name of the job's own, and renamed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

from pipelines.runs.errors import RetraceError

# Bytes; less is no room for anything.
NEARLY_NOTHING = 1 << 16


def owner() -> str:
    """Name of this job among all that may write beside it; one name for all its ranks.

    ``<host>-<process>`` of the process that started the ranks, or ``slurm-<job>.<step>`` in an srun step.
    """
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', 0)}"
    process = os.environ.get("RETRACE_LAUNCHER", os.getpid()) if "RANK" in os.environ else os.getpid()
    return f"{os.uname().nodename}-{process}"


def partial_folder(out: Path) -> Path:
    """Where this job writes what will be ``out``."""
    return out.with_name(f".{out.name}.{owner()}.partial")


def make_partial(out: Path) -> Path:
    """Create this job's empty partial folder, and remove those that dead jobs left for the same place."""
    partial = partial_folder(out)
    partial.parent.mkdir(parents=True, exist_ok=True)
    start, end = f".{out.name}.", ".partial"
    for each in partial.parent.iterdir():
        if each.name.startswith(start) and each.name.endswith(end):
            theirs = each.name[len(start) : -len(end)]
            if theirs == owner() or _is_dead(theirs):
                shutil.rmtree(each, ignore_errors=True)
    partial.mkdir()
    return partial


def move_into_place(partial: Path, out: Path, *, overwrite: bool = False) -> None:
    """Rename; what is replaced goes aside first, so that a kill in between loses neither.

    Raises:
        FileExistsError: someone else put a folder there and it is not to be replaced.
    """
    replaced = out.with_name(f".{out.name}.{owner()}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if overwrite and out.exists():
        out.rename(replaced)
    try:
        partial.rename(out)
    except OSError as fault:
        if fault.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(f"{out} exists") from None
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def full_folder(error: BaseException, folders: list[Path]) -> Path | None:
    """The folder whose disk is full, if that is what an error comes from.

    Libraries say it each in its own way: ENOSPC, its words in a message (safetensors), or neither (torch, numpy);
    then a disk with nothing left on it tells.
    """
    emptiest = min(folders, key=_free_bytes)
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Path(str(error.filename)).parent if error.filename else emptiest
        if os.strerror(errno.ENOSPC) in str(error):
            return emptiest
        cause = error.__cause__ or error.__context__
        if cause is None:
            break
        error = cause
    return emptiest if _free_bytes(emptiest) < NEARLY_NOTHING else None


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_free(out: Path) -> None:
    """Refuse to write over an artifact.

    Raises:
        RetraceError: ``out`` exists.
    """
    if out.exists():
        raise RetraceError(f"{out} exists: remove it, choose another --out, or give --overwrite")


def _is_dead(owner: str) -> bool:
    """True when the owner of a folder is known to have ended; of other hosts nothing is known."""
    host, _, number = owner.rpartition("-")
    if host == "slurm":
        try:
            asked = subprocess.run(
                ["squeue", "-h", "-j", number.partition(".")[0]], capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return not asked.stdout.strip() if asked.returncode == 0 else "Invalid job id" in asked.stderr
    if host != os.uname().nodename or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
