"""The store: finished artifacts by the key of their job, as records over DVC's object cache.

A record names every file of an artifact and its MD5. Objects are written first and the record last and at once, so
whoever finds a record finds all of it or is told what is missing. Records and objects are data: JSON, and bytes
that are copied or linked; nothing read here is ever run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.runs.cache import NO_LINK, Cache, FileEntry, ObjectFault, cache_settings, temporary_name
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import ROOT, RUN_RECORD
from pipelines.runs.placement import make_partial, move_into_place
from pipelines.runs.store_record import Record, parse_record, tree_bytes

__all__ = ["FileEntry", "Record", "Store", "open_store", "parse_record", "store_mode", "tree_bytes"]

MODES = ("full", "lazy", "off")
KEY = re.compile(r"[0-9a-f]{64}")
# Snakemake's mark in folders it made; no part of an artifact.
NOT_STORED = ".snakemake_timestamp"


def store_mode() -> str:
    """How RETRACE_STORE says the store is used: ``full``, ``lazy`` or ``off``."""
    mode = os.environ.get("RETRACE_STORE") or "full"
    if mode not in MODES:
        raise RetraceError(f"RETRACE_STORE is {mode!r}: choose one of {', '.join(MODES)}")
    return mode


def open_store(root: Path = ROOT) -> Store | None:
    """The store of a checkout; None where RETRACE_STORE says off or DVC is not set up."""
    if store_mode() == "off":
        return None
    settings = cache_settings(root)
    return Store(Cache(settings), root) if settings else None


class Store:
    """Records of finished jobs, and the cache that holds their files."""

    def __init__(self, cache: Cache, root: Path = ROOT) -> None:
        self.cache = cache
        self.root = root
        self.records_folder = cache.settings.folder / "retrace" / "records"

    def path(self, key: str) -> Path:
        """Where a record is or would be."""
        return self.records_folder / key[:2] / f"{key}.json"

    def record(self, key: str) -> Record | None:
        """The record of a job; one that cannot be trusted is set aside with a warning, and counts as none."""
        if not KEY.fullmatch(key):
            raise RetraceError(f"{key!r} is not the key of a job: it has 64 hexadecimal digits")
        path = self.path(key)
        try:
            return parse_record(path.read_bytes().decode(errors="replace"), key)
        except FileNotFoundError:
            return None
        except OSError as fault:
            _warn(f"{path} cannot be read ({fault.strerror}): the store is not asked")
        except RetraceError as refused:
            _warn(f"{refused}; it is set aside as {path.stem}.refused")
            self._set_aside(key)
        return None

    def records(self) -> Iterator[Record]:
        """Every record, by key."""
        for path in sorted(self.records_folder.glob("??/*.json")):
            if KEY.fullmatch(path.stem):
                record = self.record(path.stem)
                if record is not None:
                    yield record

    def missing(self, record: Record) -> list[FileEntry]:
        """The files whose objects are not in the cache; their bytes are not read."""
        return [each for each in record.files if not self.cache.has(each.md5, each.size)]

    def put(self, artifact: Path, run: dict[str, Any], place: Path | None = None) -> Record | None:
        """Store a finished artifact: every object, then the record.

        Args:
            run: the run record that lies in the artifact.
            place: folder the artifact will be found in, when it is not there yet.

        Returns:
            The record, another's if one was faster; None with a warning when it could not be stored.
        """
        try:
            known = self.record(run["key"])
            if known is not None and not self.missing(known):
                return known
            files = tuple(self.cache.add(artifact / name, name) for name in _file_names(artifact))
            # The same bytes may have mended what was damaged or lost; then the record that others have stays.
            if known is not None and not self.missing(known):
                return known
            record = Record(
                key=run["key"],
                stage=run["stage"],
                verb=run["verb"],
                path=self._hint(place or artifact),
                run=run,
                tree=self.cache.add_tree(tree_bytes(files)),
                files=files,
                size=sum(each.size for each in files),
                stored=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            # What this process would refuse to read it must not write.
            parse_record(record.to_json(), record.key)
            self._write(record, over=known is not None)
        except (OSError, RetraceError) as fault:
            why = fault.strerror or fault if isinstance(fault, OSError) else fault
            _warn(
                f"the result is whole but could not be shared: {self.cache.settings.folder}: {why}. "
                "Make room or make it writable; the next run of this job is stored"
            )
            return None
        return self.record(record.key)

    def restore(self, record: Record, out: Path, *, overwrite: bool = False) -> None:
        """Put an artifact into ``out``: every file verified, the folder at once.

        Raises:
            ObjectFault: an object is missing, or was damaged and has been removed.
            RetraceError: the record names an object that is not its file, and has been set aside.
            FileExistsError: another process has put a folder there meanwhile.
        """
        partial = make_partial(out)
        try:
            for each in record.files:
                to = partial / each.relpath
                to.parent.mkdir(parents=True, exist_ok=True)
                self.cache.restore(each, to)
            # It may be a link to the object: replaced, never written to.
            (partial / RUN_RECORD).unlink()
            now = datetime.now(UTC).isoformat(timespec="seconds")
            run = {**record.run, "provenance": "restored", "restored_at": now}
            (partial / RUN_RECORD).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
            move_into_place(partial, out, overwrite=overwrite)
        except ObjectFault as fault:
            shutil.rmtree(partial, ignore_errors=True)
            if fault.kind != "another":
                raise
            self._set_aside(record.key)
            raise RetraceError(
                f"record {record.key[:12]} of the store is refused: {fault.md5} is not its file"
            ) from None
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        # What is old is collected by its last use.
        with suppress(OSError):
            os.utime(self.path(record.key))

    def add_record(self, text: str, key: str) -> Record:
        """Add a record from elsewhere; one that is here stays.

        Raises:
            RetraceError: the record cannot be trusted.
        """
        record = parse_record(text, key)
        self._write(record)
        return self.record(key) or record

    def remove(self, key: str) -> None:
        """Forget a job; its objects stay."""
        self.path(key).unlink(missing_ok=True)

    def note_run_id(self, key: str, mlflow_run_id: str) -> None:
        """Remember under which id MLflow knows the run that computed an artifact; best effort."""
        record = self.record(key)
        if record is None or record.run.get("mlflow_run_id") == mlflow_run_id:
            return
        with suppress(OSError):
            self._write(replace(record, run={**record.run, "mlflow_run_id": mlflow_run_id}), over=True)

    def _write(self, record: Record, *, over: bool = False) -> None:
        """Write a record at once; without ``over`` the first writer's stays."""
        path = self.path(record.key)
        self.cache.make_folder(path.parent)
        partial = temporary_name(path)
        try:
            partial.write_text(record.to_json(), encoding="utf-8")
            if self.cache.settings.group_shared:
                partial.chmod(0o664)
            if over:
                partial.replace(path)
                return
            try:
                path.hardlink_to(partial)
            except FileExistsError:
                pass
            except OSError as fault:
                # A file system without hard links; a rename after a look is all it offers.
                if fault.errno not in NO_LINK:
                    raise
                if not path.exists():
                    partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _set_aside(self, key: str) -> None:
        path = self.path(key)
        with suppress(OSError):
            path.rename(path.with_suffix(".refused"))

    def _hint(self, place: Path) -> str:
        place = place.absolute()
        return place.relative_to(self.root).as_posix() if place.is_relative_to(self.root) else place.name


def _file_names(artifact: Path) -> list[str]:
    """Every file of an artifact, sorted as DVC sorts them.

    Raises:
        RetraceError: something in it is neither a file nor a folder.
    """
    names = []
    for folder, inner, files in os.walk(artifact):
        for each in (Path(folder, name) for name in (*inner, *files)):
            if each.is_symlink() or not (each.is_file() or each.is_dir()):
                raise RetraceError(f"{each} is a link or a device; an artifact is plain files")
        names += [Path(folder, name).relative_to(artifact).as_posix() for name in files if name != NOT_STORED]
    return sorted(names)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
