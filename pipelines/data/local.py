"""A folder of ``.txt`` and ``.jsonl`` files as documents. Files are streamed; faults name file and place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pipelines.data.corpus import Document
from pipelines.data.docstrings import stable_order
from pipelines.runs.errors import RetraceError

SUFFIXES = (".txt", ".jsonl")

# A book is cut into passages, so that a single file can still be split in two: at the first blank line after this many
# characters, or at the end of a line after twice as many.
PASSAGE_CHARACTERS = 10_000


def list_files(folder: Path) -> list[Path]:
    """The text files under a folder, sorted by path.

    Raises:
        RetraceError: no folder, an empty one, or one without .txt and .jsonl.
    """
    if not folder.is_dir():
        raise RetraceError(f"--folder {folder} is not a folder: give one that holds .txt or .jsonl files")
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    if not found:
        raise RetraceError(f"--folder {folder} is empty: put .txt or .jsonl files into it")
    files = [path for path in found if path.suffix in SUFFIXES]
    if not files:
        raise RetraceError(f"--folder {folder} has no .txt or .jsonl file: it holds {found[0].name} and the like")
    return files


def folder_documents(folder: Path, text_field: str, seed: int) -> Iterator[Document]:
    """Documents of every file, the files in a pseudo-random order; domain is the file's name without suffix.

    A ``.txt`` file gives passages of whole paragraphs, a ``.jsonl`` file one document a line.

    Raises:
        RetraceError: invalid UTF-8 (file, byte offset), broken JSON or a line without its field (file, line).
    """
    files = list_files(folder)
    for path in sorted(files, key=lambda path: stable_order(path.relative_to(folder).as_posix(), f"sample{seed}")):
        name = path.relative_to(folder).as_posix()
        texts = _passages(path) if path.suffix == ".txt" else _json_texts(path, text_field)
        for number, text in texts:
            if text.strip():
                yield Document(text, f"{name}:{number}", path.stem)


def _lines(path: Path) -> Iterator[str]:
    offset = 0
    with path.open("rb") as file:
        for line in file:
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as fault:
                raise RetraceError(
                    f"{path}: byte {offset + fault.start} (0x{line[fault.start]:02x}) is not UTF-8: "
                    "convert the file, for example with iconv"
                ) from None
            # Editors of some systems put a byte order mark first; it is no text.
            yield text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(line)


def _passages(path: Path) -> Iterator[tuple[int, str]]:
    number, size = 1, 0
    passage: list[str] = []
    for line in _lines(path):
        line = line.replace("\r\n", "\n")
        if size >= (2 * PASSAGE_CHARACTERS if line.strip() else PASSAGE_CHARACTERS):
            yield number, "".join(passage).strip("\n")
            number, size, passage = number + 1, 0, []
        passage.append(line)
        size += len(line)
    yield number, "".join(passage).strip("\n")


def _json_texts(path: Path, text_field: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as broken:
            raise RetraceError(f"{path}:{number}: broken JSON ({broken.msg} at column {broken.colno})") from None
        text = fields.get(text_field) if isinstance(fields, dict) else None
        if not isinstance(text, str):
            there = ", ".join(sorted(fields)) if isinstance(fields, dict) else f"a {type(fields).__name__}"
            raise RetraceError(
                f"{path}:{number}: no text in field {text_field!r} (there is: {there or 'nothing'}): "
                "mend the line, or set data.text_field"
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RetraceError(f"{path}:{number}: field {text_field!r} holds half a surrogate pair: mend it") from None
        yield number, text
