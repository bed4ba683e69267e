"""Text to learn from, as blocks of UTF-8: files of any size, JSON lines, or any iterable of texts.

A text file is one text, read in blocks that are cut where words end, so that the words are those of the whole; without
a pattern, each of its lines is a text. A line of JSON is one text. What is not UTF-8 is read as U+FFFD, as
``bytes.decode(errors="replace")`` does, and counted.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.character_classes import class_table
from pipelines.tokenizer.counting import Block
from pipelines.tokenizer.scanner import CODE_OF_PATTERN, safe_cut

# Large enough to hide what handing a block to a thread costs, small enough that blocks weigh nothing.
BLOCK_BYTES = 1 << 19
JSON_LINES = (".jsonl", ".jsonl.gz")
TEXT = (".txt", ".txt.gz")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_REPLACEMENT = "\ufffd"

Advance = Callable[[float], None]


@dataclass
class InvalidText:
    """What was not UTF-8.

    Attributes:
        num_sequences: sequences of bytes read as U+FFFD.
        first: the file that holds the first of them.
    """

    num_sequences: int = 0
    first: str = ""

    def decode(self, data: bytes, where: object) -> str:
        """Text of bytes."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            text = data.decode(errors="replace")
            # The text may hold U+FFFD itself.
            self._add(text.count(_REPLACEMENT) - data.count(_REPLACEMENT.encode()), where)
            return text

    def encode(self, text: str, where: object) -> bytes:
        """UTF-8 of a text; JSON can name half a surrogate pair, which has none."""
        try:
            return text.encode()
        except UnicodeEncodeError:
            data = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
            self._add(data.count(_REPLACEMENT.encode()) - text.count(_REPLACEMENT), where)
            return data

    def _add(self, number: int, where: object) -> None:
        if not self.num_sequences:
            self.first = str(where)
        self.num_sequences += number


def list_sources(paths: Sequence[Path]) -> list[Path]:
    """The files meant: files as given, folders by the text files and JSON lines below them.

    Raises:
        RetraceError: a folder without any.
    """
    files = []
    for path in paths:
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if each.name.endswith(TEXT + JSON_LINES) and each.is_file())
            if not found:
                raise RetraceError(f"{path} holds no file named {', '.join(TEXT + JSON_LINES)}: name the files instead")
            files += found
        else:
            files.append(path)
    return files


def file_blocks(
    files: Iterable[Path], pattern: str, text_field: str, invalid: InvalidText, advance: Advance
) -> Iterator[Block]:
    """The texts of files.

    Args:
        text_field: of the object on each line, in files named .jsonl; every other file is text.
        advance: called with the bytes read of files, as far as they lie on disk.
    """
    for path in files:
        with _opened(path, advance) as (file, told):
            if path.name.endswith(JSON_LINES):
                blocks = text_blocks(_json_texts(file, path, text_field, invalid), invalid, path)
            else:
                blocks = _pieces(file, path, pattern, invalid)
            for block in blocks:
                told()
                yield block


def text_blocks(texts: Iterable[str | bytes], invalid: InvalidText, where: object = "the texts") -> Iterator[Block]:
    """Texts in groups."""
    group: list[bytes] = []
    ends: list[int] = []
    for text in texts:
        group.append(invalid.encode(invalid.decode(text, where) if isinstance(text, bytes) else text, where))
        ends.append(len(group[-1]) + (ends[-1] if ends else 0))
        if ends[-1] >= BLOCK_BYTES:
            yield _block(b"".join(group), ends)
            group, ends = [], []
    if group:
        yield _block(b"".join(group), ends)


def _block(letters: bytes, ends: Any) -> Block:
    return Block(np.frombuffer(letters, dtype=np.uint8), np.asarray(ends, dtype=np.int64))


@contextmanager
def _opened(path: Path, advance: Advance) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """A file to read, unpacked if need be, and a function that says how far it has been read."""
    done = 0

    def told() -> None:
        nonlocal done
        advance(raw.tell() - done)
        done = raw.tell()

    with path.open("rb") as raw:
        packed = path.suffix == ".gz"
        try:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=raw) if packed else raw), told
        except (EOFError, zlib.error, gzip.BadGzipFile) as broken:
            raise RetraceError(f"{path} is damaged ({broken}): fetch or pack it again") from None
        told()


def _pieces(file: IO[bytes], path: Path, pattern: str, invalid: InvalidText) -> Iterator[Block]:
    """A text file cut where words end."""
    code, classes = CODE_OF_PATTERN[pattern], class_table()
    rest = file.read(len(_BYTE_ORDER_MARK)).removeprefix(_BYTE_ORDER_MARK)
    while True:
        # Where nothing can be cut the next piece is as long as all before it, so that even then all is read but twice.
        read = file.read(max(BLOCK_BYTES, len(rest)))
        data = rest + read
        whole = data if not read else data[: _complete(data)]
        rest = data[len(whole) :]
        letters = invalid.encode(invalid.decode(whole, path), path)
        cut = safe_cut(np.frombuffer(letters, dtype=np.uint8), len(letters), code, classes) if read else len(letters)
        rest = letters[cut:] + rest
        if cut:
            piece = letters[:cut]
            lines = np.flatnonzero(np.frombuffer(piece, dtype=np.uint8) == ord("\n")) + 1
            ends = np.union1d(lines, cut) if pattern == "none" else [cut]
            yield _block(piece, ends)
        if not read:
            return


def _complete(data: bytes) -> int:
    """Bytes up to the last character of which the end may be missing."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-4:])
    return len(data) - len(decoder.getstate()[0])


def _json_texts(file: IO[bytes], path: Path, text_field: str, invalid: InvalidText) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(invalid.decode(line.removeprefix(_BYTE_ORDER_MARK), path))
        except ValueError as broken:
            raise RetraceError(f"{path}:{number} is not JSON ({broken}): a .jsonl file has one object a line") from None
        text = fields.get(text_field) if isinstance(fields, dict) else None
        if not isinstance(text, str):
            there = ", ".join(sorted(fields)) if isinstance(fields, dict) else f"a {type(fields).__name__}"
            raise RetraceError(
                f"{path}:{number} has no text in field {text_field!r} (there is: {there or 'nothing'}): "
                "mend the line, or set text_field"
            )
        yield text
