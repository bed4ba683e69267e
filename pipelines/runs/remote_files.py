"""The files of a remote, through the file systems of DVC: small questions, moves, and one exception for all that fails.

Whichever client is behind it, a remote that is away is noticed within seconds and says so in one line.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.runs.cache import CHUNK
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.base import FileSystem
    from fsspec.callbacks import Callback

T = TypeVar("T")
R = TypeVar("R")
Advance = Callable[[int], object]
"""Told the bytes of a transfer as they go."""

# Small questions (is it there, how large is it) that are asked at once.
QUESTIONS = 16
# Seconds until a host that does not answer counts as away; the clients' own patience is minutes.
CONNECT_SECONDS = 5


class RemoteAway(RetraceError):
    """The remote cannot be reached, or refuses. What arrived before stays where it is."""


class RemoteFiles:
    """Files below the path of one remote; any method may raise RemoteAway.

    Attributes:
        name, url: as ``dvc remote list`` shows them, but for a password.
        objects: DVC's object database there.
    """

    def __init__(self, name: str, url: str, fs: FileSystem, path: str, options: dict[str, Any]) -> None:
        self.name = name
        self.url = re.sub(r"(?<=//)([^/@:]*):[^/@]*@", r"\1@", url)
        self._fs = fs
        self._path = path
        self.objects = object_database(fs, fs.join(path, "files", "md5"), **options)
        self._reached = False

    def place(self, *parts: str) -> str:
        """Path of a file below the remote's."""
        return str(self._fs.join(self._path, *parts))

    def sizes(self, paths: Iterable[str]) -> list[int | None]:
        """Bytes of each file, None for those that are not there."""

        def size(path: str) -> int | None:
            try:
                return int(self._fs.info(path)["size"])
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._each(size, paths)

    def read(self, paths: Iterable[str]) -> list[str | None]:
        """Text of each file, None for those that are not there."""

        def read(path: str) -> str | None:
            try:
                return str(self._fs.read_bytes(path), "utf-8", "replace")
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._each(read, paths)

    def write(self, texts: Mapping[str, str]) -> None:
        """Write files, each of them at once: DVC renames, or the remote is a store of whole objects."""

        def write(item: tuple[str, str]) -> None:
            path, text = item
            self.objects.makedirs(self._fs.parent(path))
            self._fs.put_file(BytesIO(text.encode()), path)

        self._each(write, texts.items(), writing=True)

    def remove(self, paths: Iterable[str]) -> None:
        """Delete files, where they are there."""

        def remove(path: str) -> None:
            try:
                self._fs.remove(path)
            except FileNotFoundError:
                return

        self._each(remove, paths, writing=True)

    def find(self, folder: str) -> list[str]:
        """Paths of all files below a folder."""
        self.reach()
        with self._reaching():
            try:
                return list(self._fs.find(folder))
            except FileNotFoundError:
                return []

    def digest(self, path: str, advance: Advance) -> str | None:
        """MD5 of a file's bytes; None when it is not there."""
        digest = hashlib.md5(usedforsecurity=False)
        with self._reaching():
            try:
                with self._fs.open(path, "rb") as file:
                    while chunk := file.read(CHUNK):
                        digest.update(chunk)
                        advance(len(chunk))
            except FileNotFoundError:
                return None
        return digest.hexdigest()

    def move(
        self, source: HashFileDB, to: HashFileDB, objects: Mapping[str, int], advance: Advance | None
    ) -> dict[str, BaseException]:
        """Move objects by DVC, which drops what arrives damaged here; returns the faults by object.

        Args:
            objects: name -> bytes.
        """
        self.reach(writing=to is self.objects)
        faults: dict[str, BaseException] = {}
        names = list(objects)
        counter = _byte_counter(advance, sum(objects.values()))
        with self._reaching():
            to.add(
                [source.oid_to_path(name) for name in names],
                source.fs,
                names,
                check_exists=False,
                verify=to is not self.objects,
                batch_size=self._fs.jobs,
                on_error=faults.__setitem__,
                callback=counter,
            )
        counter.close()
        return faults

    def away(self, fault: BaseException) -> RemoteAway:
        """What to raise for a fault of the remote."""
        reason = " ".join(str(fault).split()).removesuffix(".") or type(fault).__name__
        return RemoteAway(
            f"remote {self.name} ({self.url}): {reason}. Nothing is lost: say it again when the remote answers"
        )

    def _each(self, ask: Callable[[T], R], items: Iterable[T], *, writing: bool = False) -> list[R]:
        """The answers for all items, asked in threads; the first fault ends it."""
        from dvc_objects.executors import ThreadPoolExecutor

        asked = list(items)
        if not asked:
            return []
        self.reach(writing=writing)
        with self._reaching(), ThreadPoolExecutor(QUESTIONS, cancel_on_error=True) as pool:
            return list(pool.map(ask, asked))

    def reach(self, *, writing: bool = False) -> None:
        """Ask one question, once, so that a remote that is away is not asked hundreds.

        A disk that is not mounted must not look like an empty store, nor be written to: a folder has to be there, or
        its parent for who comes ``writing``.
        """
        if self._reached:
            return
        from dvc_objects.fs.base import ObjectFileSystem

        with self._reaching():
            _bound_patience(self._fs)
            there = self._fs.exists(self._path)
            if not there and isinstance(self._fs, ObjectFileSystem):
                bucket = self._path.split("/", 1)[0]
                if not self._fs.exists(bucket):
                    raise FileNotFoundError(f"no bucket {bucket}, or no right to see it")
            elif not there and self._fs.protocol in ("local", "ssh"):
                if not writing:
                    raise FileNotFoundError("no such folder (is its disk mounted? The first `store share` makes it)")
                if not self._fs.isdir(self._fs.parent(self._path)):
                    raise FileNotFoundError("neither the folder nor its parent is there (is its disk mounted?)")
        self._reached = True

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RetraceError:
            raise
        except Exception as fault:
            # Each client has exceptions of its own; what Python itself raises, but for OSError, is a bug here.
            if type(fault).__module__ == "builtins" and not isinstance(fault, OSError):
                raise
            raise self.away(fault) from fault


def object_database(fs: FileSystem, path: str, **options: Any) -> HashFileDB:
    """DVC's object database in a folder of any file system."""
    from dvc_data.hashfile.db import get_odb

    return get_odb(fs, path, hash_name="md5", **options)


def _bound_patience(fs: FileSystem) -> None:
    """Bound how long a host may keep silent, unless the remote's own configuration says."""
    if fs.protocol == "s3":
        settings = fs.fs_args.setdefault("config_kwargs", {})
        settings.setdefault("connect_timeout", CONNECT_SECONDS)
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            settings.setdefault("retries", {"max_attempts": 2})
    elif fs.protocol == "ssh":
        # A link that broke under a transfer is noticed by what keeps it alive.
        fs.fs_args |= {"connect_timeout": CONNECT_SECONDS, "keepalive_interval": 3 * CONNECT_SECONDS}


def _byte_counter(advance: Advance | None, total: int) -> Callback:
    """DVC's callback of a transfer: passes on the bytes, and at its close those that no file system told of."""
    from fsspec.callbacks import Callback

    class Counter(Callback):
        told = 0

        def tell(self, number: int) -> None:
            number = min(number, total - self.told)
            self.told += number
            if advance is not None and number > 0:
                advance(number)

        def branched(self, path_1: str, path_2: str, **kwargs: Any) -> Callback:
            return File()

        def close(self) -> None:
            self.tell(total)

    class File(Callback):
        seen = 0

        def call(self, hook_name: str | None = None, **kwargs: Any) -> None:
            counter.tell(self.value - self.seen)
            self.seen = self.value

    counter = Counter()
    return counter
