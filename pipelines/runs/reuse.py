"""Serving a job from the store instead of computing it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from pipelines.runs.cache import ObjectFault
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import RUN_RECORD
from pipelines.runs.placement import check_free
from pipelines.runs.store import Record, Store


def restored(store: Store, record: Record, out: Path, *, overwrite: bool = False) -> bool:
    """Put a stored artifact into place; objects that are not here, or damaged, are fetched from the remote.

    Returns:
        False when some cannot be had; a warning says why, and the job is to be computed.
    """
    try:
        if store.missing(record):
            _fetch(store, record)
        try:
            store.restore(record, out, overwrite=overwrite)
        except ObjectFault as damaged:
            # A cache that cannot be written keeps it, and another copy would find no place.
            if not store.missing(record):
                raise
            _warn(f"{damaged} in {store.cache.objects_folder}; looking for another copy")
            _fetch(store, record)
            store.restore(record, out, overwrite=overwrite)
    except (ObjectFault, RetraceError) as fault:
        _warn(f"{fault}; {out.name} is computed")
        return False
    except FileExistsError:
        adopt(out, record.key)
    else:
        _say(f"restored from the store: {_origin(record.run)}")
    return True


def holds(out: Path, key: str) -> bool:
    """True when ``out`` is the finished artifact of this job."""
    try:
        return bool(json.loads((out / RUN_RECORD).read_text(encoding="utf-8"))["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def adopt(out: Path, key: str) -> None:
    """Take what another process has put into place meanwhile.

    Raises:
        RetraceError: it is not the artifact of this job.
    """
    if not holds(out, key):
        check_free(out)
    _say(f"{out} was finished by another process meanwhile")


def check_same_job(record: Record, stage: str, verb: str, spec: dict[str, Any]) -> None:
    """Refuse a stored artifact that is not of this stage, verb and spec: the key given is another job's.

    Raises:
        RetraceError: says what differs.
    """
    theirs = record.run.get("spec")
    if (record.stage, record.verb) != (stage, verb):
        differs = f"{record.stage} {record.verb}"
    elif theirs != spec:
        names = sorted(name for name in {*spec, *(theirs or {})} if (theirs or {}).get(name) != spec.get(name))
        differs = f"another spec ({', '.join(names)})"
    else:
        return
    raise RetraceError(f"--key {record.key[:12]} is of {differs}: give the key of this job, or none")


def _fetch(store: Store, record: Record) -> None:
    """Bring the missing objects of one record from the default remote.

    Raises:
        ObjectFault: there is no remote.
        RetraceError: it is away, or has none that are sound.
    """
    from pipelines.runs.remote import open_remote

    missing = store.missing(record)
    remote = open_remote(store.root)
    if remote is None:
        raise ObjectFault(missing[0].md5, "missing")
    megabytes = sum(each.size for each in missing) / 1e6
    _say(f"fetching {len(missing)} objects ({megabytes:.1f} MB) from remote {remote.name}")
    remote.fetch_objects(store, [record])


def _origin(run: dict[str, Any]) -> str:
    """When, from which commit and in what time an artifact was computed; what is not known is left out."""
    # From a record, which anyone may have written: only what looks as it should reaches the terminal.
    day = re.match(r"\d{4}-\d\d-\d\d", str(run.get("started")))
    commit = re.match(r"[0-9a-f]{7,}", str(run.get("git_commit")))
    seconds = run.get("seconds")
    parts = [
        f"computed {day[0]}" if day else "computed",
        f"at commit {commit[0][:9]}" if commit else "",
        f"in {seconds:.1f} s" if isinstance(seconds, int | float) else "",
    ]
    return " ".join(filter(None, parts))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _warn(text: str) -> None:
    _say(f"warning: {text}")
