"""DVC's object cache, read and written without importing DVC, which takes longer than restoring a small artifact.

Layout, link types and file modes are DVC 3's, so ``dvc push`` moves what a job stored and a job finds what DVC fetched.
DVC names an object by its MD5; a file of an artifact is also known by its SHA-256, which current processors compute
more than twice as fast, and which two files never share by someone's design.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError

LINK_TYPES = ("reflink", "hardlink", "symlink", "copy")
OBJECT_MODE = 0o444
OBJECT_NAME = re.compile(r"[0-9a-f]{32}(\.dir)?")
CHUNK = 1 << 20

# What says that a kind of link cannot be made here, and not that something is wrong.
NO_LINK = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
}
# The kernel's request that makes one file share another's blocks; Python's fcntl names it from 3.12 on.
_FICLONE = 0x40049409


class ObjectFault(Exception):
    """An object cannot be used.

    It is ``missing``; or ``damaged``: its bytes are not those of its name; or ``another``: they are, and yet not those
    of the file that was asked for.
    """

    def __init__(self, md5: str, kind: str) -> None:
        super().__init__(f"object {md5} is {kind}")
        self.md5 = md5
        self.kind = kind


@dataclass(frozen=True)
class CacheSettings:
    """What DVC's configuration says of the cache.

    Attributes:
        folder: DVC's cache folder; objects are in ``files/md5`` below it.
        link_types: the ways to put an object into a workspace, the first that works is taken.
        group_shared: folders are writable by the group.
    """

    folder: Path
    link_types: tuple[str, ...] = ("reflink", "copy")
    group_shared: bool = False


@dataclass(frozen=True)
class FileEntry:
    """A file of an artifact: its name below the artifact's folder (with ``/``), digests and number of its bytes."""

    relpath: str
    md5: str
    size: int
    sha256: str


def cache_settings(root: Path) -> CacheSettings | None:
    """The cache of the DVC repository at ``root``, from all levels of its configuration; None without one.

    Raises:
        RetraceError: the configuration cannot be read, or says something DVC would refuse.
    """
    dvc = root / ".dvc"
    if not dvc.is_dir():
        return None
    section: dict[str, Any] = {}
    for file in _config_files(dvc):
        section |= _cache_section(file)
    if "local" in section:
        raise RetraceError(f"{dvc}: cache.local is obsolete: say `dvc cache dir FOLDER` instead")
    folder = section.get("dir", str(dvc / "cache"))
    if "://" in folder:
        raise RetraceError(f"{dvc}: cache.dir is {folder}, and a cache is a folder: say `dvc cache dir FOLDER`")
    kinds = section.get("type", ("reflink", "copy"))
    kinds = tuple(kind.strip() for kind in (kinds.split(",") if isinstance(kinds, str) else kinds))
    if set(kinds) - set(LINK_TYPES):
        raise RetraceError(f"{dvc}: cache.type is {','.join(kinds)}: choose among {', '.join(LINK_TYPES)}")
    shared = section.get("shared")
    if shared is not None and shared.lower() != "group":
        raise RetraceError(f"{dvc}: cache.shared is {shared!r}: it takes only group")
    return CacheSettings(Path(folder), kinds, shared is not None)


def file_md5(path: Path) -> str:
    """MD5 of a file's bytes, in hexadecimal."""
    return _digest(path, _md5)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return _digest(path, hashlib.sha256)


class Cache:
    """Objects by MD5; ``<md5>.dir`` names a folder's list of files."""

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self.objects_folder = settings.folder / "files" / "md5"
        self._links = [(kind, _LINKS[kind]) for kind in settings.link_types if kind in _LINKS]

    def path(self, md5: str) -> Path:
        """Where an object is or would be."""
        return self.objects_folder / md5[:2] / md5[2:]

    def has(self, md5: str, size: int) -> bool:
        """True when an object of this size is there; its bytes are not read."""
        try:
            found = self.path(md5).stat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == size

    def is_sound(self, md5: str) -> bool:
        """True when the object is there and its bytes are those of its name."""
        try:
            return file_md5(self.path(md5)) == md5.removesuffix(".dir")
        except OSError:
            return False

    def add(self, file: Path, relpath: str | None = None) -> FileEntry:
        """Put a copy of a file into the cache; a damaged object of its name is replaced.

        Args:
            relpath: the file's name in its artifact; its own name by default.
        """
        entry = FileEntry(relpath or file.name, file_md5(file), file.stat().st_size, file_sha256(file))
        self._put(entry.md5, lambda partial: _copy_blocks(file, partial))
        return entry

    def add_tree(self, content: bytes) -> str:
        """Put DVC's list of a folder's files into the cache; returns its name, ``<md5>.dir``."""
        name = _md5(content).hexdigest() + ".dir"
        self._put(name, lambda partial: partial.write_bytes(content))
        return name

    def restore(self, entry: FileEntry, to: Path) -> None:
        """Make ``to`` the object's file, by the first link type that works here, or else by copying.

        Links lead to the read-only object itself, so such a file may be replaced but never opened for writing.

        Raises:
            ObjectFault: the object is missing, or was damaged and has been removed, or is not this file.
        """
        path = self.path(entry.md5)
        if not self.has(entry.md5, entry.size):
            self._refuse(entry.md5, "damaged" if path.exists() else "missing")
        for kind, link in list(self._links):
            try:
                link(path, to)
            except OSError as fault:
                if fault.errno not in NO_LINK:
                    raise
                # Neither for the next file: they all go from one file system to another.
                self._links.remove((kind, link))
            else:
                sha256 = file_sha256(to)
                break
        else:
            sha256 = _copy_hashing(path, to)
        if sha256 != entry.sha256:
            to.unlink()
            self._refuse(entry.md5, "another" if self.is_sound(entry.md5) else "damaged")

    def remove(self, md5: str) -> None:
        """Delete an object, if it is there."""
        self.path(md5).unlink(missing_ok=True)

    def objects(self) -> Iterator[tuple[str, int]]:
        """(MD5, bytes) of every object, in order."""
        for folder in sorted(self.objects_folder.glob("[0-9a-f][0-9a-f]")):
            for path in sorted(folder.iterdir()):
                if OBJECT_NAME.fullmatch(folder.name + path.name):
                    yield folder.name + path.name, path.stat().st_size

    def make_folder(self, folder: Path) -> None:
        """Create a folder of the cache and its parents, writable by the group where the cache is the group's."""
        if folder.is_dir():
            return
        self.make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        if self.settings.group_shared:
            folder.chmod(0o2775)

    def _put(self, md5: str, write: Callable[[Path], object]) -> None:
        path = self.path(md5)
        if self.is_sound(md5):
            # In use again: to whoever collects old objects it is as new.
            with suppress(OSError):
                os.utime(path)
            return
        self.make_folder(path.parent)
        partial = temporary_name(path)
        try:
            write(partial)
            partial.chmod(OBJECT_MODE)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _refuse(self, md5: str, kind: str) -> None:
        if kind == "damaged":
            # A read-only cache keeps it; whoever may write there replaces it.
            with suppress(OSError):
                self.remove(md5)
        raise ObjectFault(md5, kind)


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other process takes, on any host."""
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")


def _digest(path: Path, kind: Callable[[], hashlib._Hash]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _md5(content: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(content, usedforsecurity=False)


def _reflink(source: Path, to: Path) -> None:
    """Let a new file share the blocks of another, where the file system can (btrfs, xfs)."""
    with source.open("rb") as reading, to.open("xb") as writing:
        try:
            fcntl.ioctl(writing, _FICLONE, reading.fileno())
        except OSError:
            to.unlink()
            raise


def _hardlink(source: Path, to: Path) -> None:
    to.hardlink_to(source)


def _symlink(source: Path, to: Path) -> None:
    to.symlink_to(source.resolve())


_LINKS: dict[str, Callable[[Path, Path], None]] = {"reflink": _reflink, "hardlink": _hardlink, "symlink": _symlink}


def _copy_blocks(source: Path, to: Path) -> None:
    try:
        _reflink(source, to)
    except OSError as fault:
        if fault.errno not in NO_LINK:
            raise
        shutil.copyfile(source, to)


def _copy_hashing(source: Path, to: Path) -> str:
    """Copy a file and return the SHA-256 of what was copied.

    Both give up the interpreter's lock, so each chunk of a large file is hashed while it is written.
    """
    digest = hashlib.sha256()
    with source.open("rb") as reading, to.open("xb") as writing:
        chunk = reading.read(CHUNK)
        if len(chunk) < CHUNK:
            digest.update(chunk)
            writing.write(chunk)
            return digest.hexdigest()
        # Not at the top: a job that restores only small files starts sooner without it.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as aside:
            while chunk:
                hashing = aside.submit(digest.update, chunk)
                writing.write(chunk)
                chunk = reading.read(CHUNK)
                hashing.result()
    return digest.hexdigest()


def _config_files(dvc: Path) -> list[Path]:
    """DVC's configuration, from the weakest level to the strongest."""
    from platformdirs import site_config_dir, user_config_dir

    system = os.environ.get("DVC_SYSTEM_CONFIG_DIR") or site_config_dir("dvc", "iterative")
    person = os.environ.get("DVC_GLOBAL_CONFIG_DIR") or user_config_dir("dvc", "iterative")
    return [Path(system, "config"), Path(person, "config"), dvc / "config", dvc / "config.local"]


def _cache_section(file: Path) -> dict[str, Any]:
    """The ``[cache]`` section of one file, its folder absolute; empty where there is no such file."""
    from configobj import ConfigObj, ConfigObjError

    try:
        text = file.read_text(encoding="utf-8")
        sections = ConfigObj(text.splitlines()).dict()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, ConfigObjError) as fault:
        raise RetraceError(f"{file}: not a configuration DVC can read ({fault})") from None
    section: dict[str, Any] = {name.lower(): values for name, values in sections.items()}.get("cache", {})
    lowered = {name.lower(): value for name, value in section.items()}
    if "dir" in lowered and "://" not in lowered["dir"]:
        lowered["dir"] = os.path.normpath(file.parent.absolute() / Path(lowered["dir"]).expanduser())
    return lowered
