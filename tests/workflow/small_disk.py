"""A disk that can be full, read-only or gone: a tmpfs. Where mounting is not allowed its tests are skipped."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted tmpfs.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self, options: str) -> None:
        """Change it in place: ``size=10m``, ``ro``, ``rw``."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True, capture_output=True)

    def unmount(self) -> None:
        """Take it away, with all that is on it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """A disk of so many bytes (``64k``, ``1m``), mounted at a new folder."""
    folder.mkdir(parents=True)
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("no mount here, so no small disk")
    if done.returncode != 0:
        pytest.skip(f"mounting a small disk is not allowed here ({done.stderr.strip()})")
    disk = SmallDisk(folder)
    try:
        yield disk
    finally:
        if folder.is_mount():
            disk.unmount()
