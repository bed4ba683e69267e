"""Folders that are whole or absent, beside those of other jobs, dead and alive; and what a full disk looks like."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from pipelines.runs.placement import full_folder, make_partial, move_into_place, owner, partial_folder


def names_in(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_what_dead_jobs_left_for_the_same_place_is_removed_and_a_living_one_keeps_its_own(tmp_path, monkeypatch):
    host = os.uname().nodename
    gone = subprocess.Popen(["true"])
    gone.wait()
    is_kept = {
        f".run.{host}-{gone.pid}.partial": False,
        f".run.{host}-1.partial": True,
        f".run.elsewhere-{gone.pid}.partial": True,
        f".run.more.{host}-{gone.pid}.partial": True,
        ".run.slurm-77.0.partial": False,
        ".run.slurm-78.1.partial": True,
        ".run.slurm-79.0.partial": True,
        ".run.nobody.partial": True,
    }
    for name in is_kept:
        (tmp_path / "out" / name).mkdir(parents=True)
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        "#!/bin/sh\n"
        'case "$3" in\n'
        "77) echo slurm_load_jobs error: Invalid job id specified >&2; exit 1;;\n"
        "78) echo 78 RUNNING;;\n"
        "79) echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1;;\n"
        "esac\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    own = make_partial(tmp_path / "out" / "run")
    assert names_in(tmp_path / "out") == {own.name, *(name for name in is_kept if is_kept[name])}


def test_ranks_share_one_folder_and_two_jobs_never_do(tmp_path, monkeypatch):
    alone = owner()
    assert alone == f"{os.uname().nodename}-{os.getpid()}"
    monkeypatch.setenv("RETRACE_LAUNCHER", "4711")
    assert owner() == alone, "the process that starts the ranks is none"
    monkeypatch.setenv("RANK", "1")
    assert owner() == f"{os.uname().nodename}-4711"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    assert partial_folder(tmp_path / "run").name == ".run.slurm-77.3.partial"


def test_a_folder_in_the_way_stays_unless_it_may_be_replaced(tmp_path):
    out = tmp_path / "run"
    for content in ("first", "second", "third"):
        partial = make_partial(out)
        (partial / content).touch()
        if content == "second":
            with pytest.raises(FileExistsError):
                move_into_place(partial, out)
            assert names_in(out) == {"first"}
        else:
            move_into_place(partial, out, overwrite=content == "third")
    assert names_in(out) == {"third"}
    assert names_in(tmp_path) == {"run"}


NO_SPACE = os.strerror(errno.ENOSPC)


def chained(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("could not save") from inner
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, NO_SPACE), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError(f"Error while serializing: I/O error: {NO_SPACE} (os error 28)"), True),
        (chained(OSError(errno.ENOSPC, NO_SPACE)), True),
        (RuntimeError("a bug"), False),
        (chained(OSError(errno.EACCES, "Permission denied")), False),
    ],
)
def test_a_full_disk_is_known_by_its_error_however_it_is_wrapped(tmp_path, error, is_full):
    assert full_folder(error, [tmp_path / "not" / "yet"]) == (tmp_path / "not" / "yet" if is_full else None)


def test_a_full_disk_is_known_by_what_is_left_on_it_when_a_library_does_not_say(tmp_path, small_disk):
    disk = small_disk(tmp_path / "disk", "256k")
    assert full_folder(RuntimeError("writing file failed"), [tmp_path, disk]) is None
    with pytest.raises(OSError, match=NO_SPACE) as full:
        (disk / "file").write_bytes(bytes(400_000))
    assert full_folder(RuntimeError("writing file failed"), [tmp_path, disk]) == disk
    assert full_folder(full.value, [tmp_path, disk]) == disk
    assert full_folder(OSError(errno.ENOSPC, NO_SPACE, str(tmp_path / "file")), [disk]) == tmp_path
