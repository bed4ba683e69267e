"""The team's end of the store: whatever ``dvc remote`` names, a folder, SSH or S3, reached through DVC.

Objects lie where ``dvc push`` puts them (``files/md5``), records beside them (``retrace/records``). Objects go first,
folder lists after the files they name and records last, so whoever finds a record finds what it names.

Three habits of DVC are not relied on: its index takes a folder's list for proof that the files are there too, it never
compares sizes, so that a truncated object would stay, and it drops a damaged download without a word.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from pipelines.runs.cache import OBJECT_NAME
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import ROOT
from pipelines.runs.remote_files import Advance, RemoteAway, RemoteFiles, object_database
from pipelines.runs.store import Record, Store, parse_record, tree_bytes
from pipelines.runs.store_record import tree_name

__all__ = ["Remote", "RemoteAway", "RemoteFault", "objects_of", "open_remote"]

Sizes = Mapping[str, int]
"""Object name (``<md5>`` or ``<md5>.dir``) -> bytes."""

# So much at most is under way when a remote goes away, and has to go again.
BATCH_OBJECTS = 256
BATCH_BYTES = 1 << 30
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class RemoteFault(RetraceError):
    """The remote answers, but objects that its records name are missing or damaged there.

    Attributes:
        objects: their names.
    """

    def __init__(self, message: str, objects: frozenset[str]) -> None:
        super().__init__(message)
        self.objects = objects


def open_remote(root: Path = ROOT, name: str | None = None) -> Remote | None:
    """The named remote, or the default one; None when none is set. Nothing is contacted yet.

    Raises:
        RetraceError: there is no such remote, or it is of a kind that cannot hold a store.
    """
    if not (root / ".dvc").is_dir():
        return None
    from dvc.config import Config, ConfigError
    from dvc.fs import get_cloud_fs
    from dvc_objects.fs.errors import RemoteMissingDepsError

    try:
        config = Config(str(root / ".dvc"))
        name = (name or config["core"].get("remote") or "").lower()
        if not name:
            return None
        if name not in config["remote"]:
            known = ", ".join(sorted(config["remote"])) or "none"
            raise RetraceError(f"no remote {name!r} (known: {known}): add it with `dvc remote add -d {name} URL`")
        kind, options, path = get_cloud_fs(config, name=name)
        for option in ("version_aware", "worktree"):
            if options.get(option):
                raise RetraceError(
                    f"remote {name} is {option}: it keeps files by path, and a store needs them by content;"
                    " share through a plain remote (--remote NAME, or `dvc remote default NAME`)"
                )
        return Remote(RemoteFiles(name, str(config["remote"][name]["url"]), kind(**options), path, options))
    except ConfigError as fault:
        raise RetraceError(f"DVC's configuration of the remote: {fault}") from None
    except RemoteMissingDepsError as fault:
        raise RetraceError(f"remote {name} needs a package: pip install dvc-{fault.protocol}") from None


def objects_of(records: Iterable[Record]) -> dict[str, int]:
    """Every object that the records name, the folders' lists included, with its bytes."""
    objects: dict[str, int] = {}
    for record in records:
        objects.update((entry.md5, entry.size) for entry in record.files)
        objects[record.tree] = len(tree_bytes(record.files))
    return objects


class Remote:
    """Objects and records of one remote; any method may raise RemoteAway.

    Attributes:
        name, url: as ``dvc remote list`` shows them.
    """

    def __init__(self, files: RemoteFiles) -> None:
        self.name = files.name
        self.url = files.url
        self._files = files
        self._objects = files.objects

    def make_ready(self) -> None:
        """Reach the remote to write: its folder may be absent then, and is made by the first thing put there."""
        self._files.reach(writing=True)

    # Records

    def held_records(self, keys: Iterable[str]) -> set[str]:
        """The keys that have a record there."""
        asked = list(keys)
        sizes = self._files.sizes(map(self._record_path, asked))
        return {key for key, size in zip(asked, sizes, strict=True) if size is not None}

    def read_records(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records there of these keys; one that is refused (a path outside its folder) is named and left out."""
        asked = list(keys)
        records = {}
        for key, text in zip(asked, self._files.read(map(self._record_path, asked)), strict=True):
            if text is None:
                continue
            try:
                records[key] = parse_record(text, key)
            except RetraceError as refused:
                print(f"warning: remote {self.name}: {refused}", file=sys.stderr, flush=True)
        return records

    def fetch_records(self, store: Store, keys: Iterable[str]) -> list[Record]:
        """Bring the records that are not here, and return them.

        Two people may have computed the same job. If one shared it and the other's objects are lost, the shared record
        takes the other's place.

        Raises:
            RetraceError: the store here cannot be written.
        """
        ours = {key: store.record(key) for key in keys}
        wanted = [key for key, record in ours.items() if record is None or store.missing(record)]
        brought = []
        for key, theirs in self.read_records(wanted).items():
            record = ours[key]
            if record is not None and record.tree == theirs.tree:
                continue
            with _writing(store):
                if record is not None:
                    store.remove(key)
                brought.append(store.add_record(theirs.to_json(), key))
        return brought

    def push_records(self, records: Iterable[Record]) -> None:
        """Put records there, in place of any of the same keys; what they name has to be there already."""
        self._files.write({self._record_path(record.key): record.to_json() for record in records})

    def list_records(self) -> list[str]:
        """Keys of all records there."""
        names = {path.rsplit("/", 1)[-1] for path in self._files.find(self._files.place("retrace", "records"))}
        return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def remove_records(self, keys: Iterable[str]) -> None:
        """Delete records."""
        self._files.remove(map(self._record_path, keys))

    def _record_path(self, key: str) -> str:
        return self._files.place("retrace", "records", key[:2], f"{key}.json")

    # Objects

    def sizes(self, objects: Iterable[str]) -> dict[str, int]:
        """Bytes of those objects that are there."""
        asked = list(objects)
        sizes = self._files.sizes(map(self._objects.oid_to_path, asked))
        return {name: size for name, size in zip(asked, sizes, strict=True) if size is not None}

    def read_objects(self, objects: Iterable[str]) -> dict[str, str]:
        """Text of those objects that are there and sound; meant for folder lists."""
        asked = list(objects)
        texts = self._files.read(map(self._objects.oid_to_path, asked))
        found = {name: text for name, text in zip(asked, texts, strict=True) if text is not None}
        return {name: text for name, text in found.items() if tree_name(text.encode()) == name}

    def fetch_objects(self, store: Store, records: Iterable[Record], advance: Advance | None = None) -> None:
        """Bring what is not here of the records' objects, each verified.

        Raises:
            RemoteFault: some are missing or damaged there; all others have been brought.
            RetraceError: the cache here cannot be written.
        """
        from dvc.fs import localfs

        asked = list(records)
        shared = "group" if store.cache.settings.group_shared else None
        cache = object_database(localfs, str(store.cache.objects_folder), shared=shared)
        lacking = {entry.md5: entry.size for record in asked for entry in store.missing(record)}
        # A record that says another size than a sound object has is wrong, and must not cost us the object.
        faulty = {name: "damaged" for name in lacking if store.cache.is_sound(name)}
        for batch in _batches({name: size for name, size in lacking.items() if name not in faulty}):
            with _writing(store):
                for name in batch:
                    # DVC takes a file that is there for the object.
                    store.cache.remove(name)
                    store.cache.make_folder(store.cache.path(name).parent)
            faults = self._files.move(self._objects, cache, batch, advance)
            for name, fault in faults.items():
                if isinstance(fault, FileNotFoundError):
                    faulty[name] = "missing"
                elif isinstance(fault, OSError) and _is_of(store.cache.objects_folder, fault):
                    raise _cannot_write(store, fault)
                else:
                    raise self._files.away(fault)
            for name in batch.keys() - faults.keys():
                if not store.cache.has(name, batch[name]):
                    faulty[name] = "damaged"
                    self.damage(store).add(name)
        for record in asked:
            folder_list = tree_bytes(record.files)
            # It follows from the record. DVC wants it, and after the files it names.
            if not store.missing(record) and not store.cache.has(record.tree, len(folder_list)):
                with _writing(store):
                    store.cache.add_tree(folder_list)
        if faulty:
            kinds = [f"{list(faulty.values()).count(kind)} {kind}" for kind in ("missing", "damaged")]
            raise RemoteFault(
                f"remote {self.name}: of the objects asked for {' and '.join(kinds)} there, such as"
                f" {next(iter(faulty))}: compute what needs them, then `python -m pipelines store share` mends it",
                frozenset(faulty),
            )

    def push_objects(
        self, store: Store, objects: Sizes, replace: Collection[str] = (), advance: Advance | None = None
    ) -> None:
        """Put objects there.

        Args:
            objects: verified ones of the cache that the remote lacks, or has in a state to ``replace``.
        """
        from dvc.fs import localfs

        cache = object_database(localfs, str(store.cache.objects_folder))
        damage = self.damage(store)
        # Files before the lists that name them: DVC believes a list.
        for lists in (False, True):
            for batch in _batches({name: size for name, size in objects.items() if name.endswith(".dir") == lists}):
                bad = [name for name in batch if name in replace]
                self.remove_objects(bad)
                for fault in self._files.move(cache, self._objects, batch, advance).values():
                    raise self._files.away(fault)
                damage.discard(bad)

    def digest(self, name: str, advance: Advance) -> str | None:
        """MD5 of the bytes that an object has there; None when it is not there."""
        return self._files.digest(self._objects.oid_to_path(name), advance)

    def list_objects(self) -> list[str]:
        """Names of all objects there."""
        names = ("".join(path.rsplit("/", 2)[-2:]) for path in self._files.find(self._objects.path))
        return sorted(name for name in names if OBJECT_NAME.fullmatch(name))

    def remove_objects(self, objects: Iterable[str]) -> None:
        """Delete objects."""
        self._files.remove(map(self._objects.oid_to_path, objects))

    def damage(self, store: Store) -> Damage:
        """What is known here to be damaged there."""
        return Damage(store.cache.settings.folder / "retrace" / "damaged" / quote(self.name, safe=""))


class Damage:
    """Objects known here to be damaged on one remote, until a good copy takes their place: one empty file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, name: object) -> bool:
        return (self._folder / str(name)).is_file()

    def add(self, name: str) -> None:
        """Note an object, where notes can be written."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / name).touch()

    def discard(self, names: Iterable[str]) -> None:
        """Forget objects."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)


def _batches(objects: Sizes) -> Iterator[dict[str, int]]:
    """The objects in portions, each small enough to go again."""
    batch: dict[str, int] = {}
    for name, size in objects.items():
        batch[name] = size
        if len(batch) == BATCH_OBJECTS or sum(batch.values()) >= BATCH_BYTES:
            yield batch
            batch = {}
    if batch:
        yield batch


@contextmanager
def _writing(store: Store) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise _cannot_write(store, fault) from None


def _cannot_write(store: Store, fault: OSError) -> RetraceError:
    return RetraceError(f"{store.cache.settings.folder} cannot take what is fetched: {fault}; mend that, fetch again")


def _is_of(folder: Path, fault: OSError) -> bool:
    """True for a fault of writing below a folder of this machine."""
    return fault.errno in _FULL or str(fault.filename or "").startswith(f"{folder}{os.sep}")
