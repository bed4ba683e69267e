"""Words (pre-tokens) with their counts: all that learning needs of a text, and its table on disk.

``words.tsv`` has a word a line, in byte-level characters, a tab and its count. Tables of parts of a text, counted on
different machines, add up to the table of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.protocol import from_symbols, to_symbols

WORDS = "words.tsv"


@dataclass(frozen=True)
class Words:
    """Distinct words with their counts.

    Attributes:
        letters: uint8, the bytes of all words, one after another.
        ends: [words] int64, where each ends.
        counts: [words] int64, occurrences.
    """

    letters: NDArray[np.uint8]
    ends: NDArray[np.int64]
    counts: NDArray[np.int64]

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Every word with its count."""
        letters = self.letters.tobytes()
        start = 0
        for end, count in zip(self.ends.tolist(), self.counts.tolist(), strict=True):
            yield letters[start:end], count
            start = end


def make_words(counts: dict[bytes, int]) -> Words:
    """Words from a dict."""
    letters = np.frombuffer(b"".join(counts), dtype=np.uint8)
    ends = np.cumsum([len(word) for word in counts], dtype=np.int64)
    return Words(letters, ends, np.array(list(counts.values()), dtype=np.int64))


def write_words(path: Path, words: Words) -> None:
    """Write a table of words, sorted by their bytes, so that the same words make the same file."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{to_symbols(word)}\t{count}\n" for word, count in sorted(words.items()))


def read_words(path: Path) -> Words:
    """Read a table of words; a word on several lines has the sum of their counts.

    Raises:
        RetraceError: a line that is not a word and a positive count, by its number.
    """
    counts: dict[bytes, int] = {}
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            symbols, _, count = line.rstrip("\r\n").partition("\t")
            word = from_symbols(symbols)
            if not _is_text(word) or not count.isdecimal() or not 0 < int(count) < 2**62:
                raise RetraceError(
                    f"{path}:{number} is not a word in byte-level characters, a tab and a count from 1: "
                    "make the table with `tokenizer count`"
                )
            counts[word] = counts.get(word, 0) + int(count)
    return make_words(counts)


def _is_text(word: bytes) -> bool:
    try:
        return bool(word.decode())
    except UnicodeDecodeError:
        return False
