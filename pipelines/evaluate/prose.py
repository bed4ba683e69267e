"""Paragraphs and sentences of held-out documents, without what a training document also says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipelines.evaluate.json_lines import read_json_lines
from pipelines.runs.errors import RetraceError

DOCUMENT_FIELDS: dict[str, type] = {"text": str, "id": str, "domain": str}

# A full stop, perhaps before a closing quote, then a capital: most abbreviations inside a sentence fail the last part.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]?[A-Z])")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|cf|vs|al|Eq|Fig|Ref|Dr|Mr|Mrs|No|St|[A-Z]))\.$")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_CODE = re.compile(r">>>|::|==|--|\(\)|[{}<>|=_\\]|https?:|\b(?:Args|Kwargs|Parameters):")

# A block longer than this is no paragraph, but a text that marks its paragraphs otherwise than by blank lines.
LONGEST_BLOCK = 5000
SENTENCES_OF_A_RUN = 8

Paragraph = tuple[str, ...]
"""The sentences of one paragraph, in order."""


@dataclass(frozen=True)
class Document:
    """The prose of one held-out module or file."""

    id: str
    domain: str
    paragraphs: tuple[Paragraph, ...]


def held_out_documents(corpus: Path) -> list[Document]:
    """The prose of a corpus's validation split.

    A sentence that a training document has too, whatever its case, spacing and punctuation, ends the paragraph before
    it: nothing that is left was seen in training.

    Args:
        corpus: corpus artifact with train.jsonl and validation.jsonl.

    Raises:
        RetraceError: a split is missing, a line lacks a field, or a module is in both splits.
    """
    held_out = read_json_lines(corpus / "validation.jsonl", DOCUMENT_FIELDS)
    train = read_json_lines(corpus / "train.jsonl", DOCUMENT_FIELDS)
    shared = sorted({row["id"] for row in held_out} & {row["id"] for row in train})
    if shared:
        raise RetraceError(
            f"{corpus}: {shared[0]!r} is in train.jsonl and in validation.jsonl ({len(shared)} such ids); "
            "build the corpus again with its splits apart"
        )
    split = [(row, [sentences(each) for each in paragraphs(row["text"])]) for row in held_out]
    wanted = {normalised(s) for _, parts in split for part in parts for s in part}
    seen: set[str] = set()
    for row in train:
        for each in paragraphs(row["text"]):
            seen.update(wanted.intersection(map(normalised, sentences(each))))
    return [
        Document(row["id"], row["domain"], tuple(run for part in parts for run in _unseen_runs(part, seen)))
        for row, parts in split
    ]


def paragraphs(text: str) -> list[str]:
    """Blank-line separated blocks that read as prose, each joined to one line.

    Books are often set without blank lines. A block too long for a paragraph is cut at its sentences, into runs of at
    most ``SENTENCES_OF_A_RUN``; a sentence that is no prose, as the first and last of a passage may be, ends a run.
    """
    found: list[str] = []
    for block in (" ".join(each.split()) for each in re.split(r"\n\s*\n", text)):
        if len(block) > LONGEST_BLOCK:
            found.extend(_runs_of_sentences(block))
        elif is_prose(block):
            found.append(block)
    return found


def is_prose(block: str) -> bool:
    """Whether a block is running text: starts with a capital, ends a sentence, holds words and no code."""
    if len(block) < 20 or not block[0].isupper() or block[-1] not in ".!?" or _CODE.search(block):
        return False
    letters = sum(each.isalpha() or each == " " for each in block)
    return letters >= 0.9 * len(block)


def sentences(paragraph: str) -> list[str]:
    """Split a paragraph after each full stop, question or exclamation mark that a capital follows."""
    found: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        piece = paragraph[start : end.end()].strip()
        if _ABBREVIATION.search(piece):
            continue
        found.append(piece)
        start = end.end()
    return [*found, paragraph[start:].strip()]


def words(text: str) -> list[str]:
    """The words of a text, as written, without punctuation."""
    return _WORD.findall(text)


def normalised(sentence: str) -> str:
    """What copies of a sentence have in common: its letters and digits, in lower case."""
    return "".join(character for character in sentence.casefold() if character.isalnum())


def _runs_of_sentences(block: str) -> list[str]:
    runs = _runs(sentences(block), is_prose)
    size = SENTENCES_OF_A_RUN
    return [" ".join(run[i : i + size]) for run in runs for i in range(0, len(run), size)]


def _unseen_runs(paragraph: list[str], seen: set[str]) -> list[Paragraph]:
    return [tuple(run) for run in _runs(paragraph, lambda sentence: normalised(sentence) not in seen)]


def _runs(found: list[str], keeps: Callable[[str], bool]) -> list[list[str]]:
    """The sentences that are kept, in the runs that those left out divide them into."""
    return [list(run) for kept, run in groupby(found, keeps) if kept]
