"""A record of the store: what a finished job was, and every file of its artifact.

Records come from colleagues and remotes, so reading one checks everything a restore will rely on.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from pipelines.runs.cache import FileEntry
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import RUN_RECORD

FORMAT = "retrace-record-1"
MD5 = re.compile(r"[0-9a-f]{32}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Record:
    """What the store knows of one finished job.

    Attributes:
        path: folder the artifact was made in, relative to the checkout; a hint for people, nothing goes by it.
        run: the run record, as computed.
        tree: name of DVC's object that lists the files.
        files: every file, by name.
        size: bytes of all files.
        stored: when, in UTC.
    """

    key: str
    stage: str
    verb: str
    path: str
    run: dict[str, Any]
    tree: str
    files: tuple[FileEntry, ...]
    size: int
    stored: str

    def to_json(self) -> str:
        """The record as it is written."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def parse_record(text: str, key: str) -> Record:
    """Check a record that may come from anywhere.

    Raises:
        RetraceError: it is not a whole record of this key, or a file of it would leave the artifact's folder.
    """
    try:
        values = json.loads(text)
        return _record(values, key)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as fault:
        why = f"no {fault}" if isinstance(fault, KeyError) else fault
        raise RetraceError(f"record {key[:12]} of the store is refused: {why}") from None


def tree_bytes(files: tuple[FileEntry, ...]) -> bytes:
    """DVC's object that lists a folder's files, byte for byte."""
    rows = [{"md5": each.md5, "relpath": each.relpath} for each in sorted(files, key=lambda each: each.relpath)]
    return json.dumps(rows, sort_keys=True).encode()


def tree_name(content: bytes) -> str:
    """Name of the object that lists a folder's files."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"


def _record(values: dict[str, Any], key: str) -> Record:
    """The record in ``values``; ValueError says what is wrong with it."""
    if values["format"] != FORMAT:
        raise ValueError(f"its format is {values['format']!r}, and this version reads {FORMAT}: update the checkout")
    run = values["run"]
    if values["key"] != key or run["key"] != key:
        raise ValueError("it is of another key")
    for name in ("stage", "verb", "path", "tree", "stored"):
        # Printed on terminals, which obey control characters.
        if not (isinstance(values[name], str) and values[name].isprintable()):
            raise ValueError(f"{name} is not a line of text")
    _check_relpath(values["path"])
    if (run["stage"], run["verb"]) != (values["stage"], values["verb"]):
        raise ValueError("its run is of another stage or verb")
    files = tuple(FileEntry(each["relpath"], each["md5"], each["size"], each["sha256"]) for each in values["files"])
    for each in files:
        _check_relpath(each.relpath)
        if not (isinstance(each.md5, str) and MD5.fullmatch(each.md5)):
            raise ValueError(f"{each.relpath}: not an MD5: {each.md5!r}")
        if not (isinstance(each.sha256, str) and SHA256.fullmatch(each.sha256)):
            raise ValueError(f"{each.relpath}: not a SHA-256: {each.sha256!r}")
        if type(each.size) is not int or each.size < 0:
            raise ValueError(f"{each.relpath}: not a size: {each.size!r}")
    names = [each.relpath for each in files]
    if names != sorted(set(names)):
        raise ValueError("its files are not sorted, or one comes twice")
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    if folders & set(names):
        raise ValueError(f"{min(folders & set(names))} is both a file and a folder")
    if RUN_RECORD not in names:
        raise ValueError(f"it has no {RUN_RECORD}")
    if values["size"] != sum(each.size for each in files):
        raise ValueError("its size is not that of its files")
    if values["tree"] != tree_name(tree_bytes(files)):
        raise ValueError("its tree is not that of its files")
    texts = {name: values[name] for name in ("stage", "verb", "path", "tree", "stored")}
    return Record(key=key, run=run, files=files, size=values["size"], **texts)


def _check_relpath(name: Any) -> None:
    """Refuse every name that could be a place outside the artifact's folder."""
    if not isinstance(name, str) or "\\" in name or not name.isprintable():
        raise ValueError(f"not a safe file name: {name!r}")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"a file would leave the artifact's folder: {name!r}")
