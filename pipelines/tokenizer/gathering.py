"""The words that ``tokenizer train`` and ``tokenizer count`` work on, from whichever input they are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.data.corpus import split_path
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import RUN_RECORD
from pipelines.tokenizer.counting import WordTable, count_blocks, unite
from pipelines.tokenizer.reading import InvalidText, file_blocks, list_sources
from pipelines.tokenizer.words import WORDS, Words, read_words

if TYPE_CHECKING:
    from pipelines.runs.job import Job
    from pipelines.tokenizer.spec import CountSpec

INPUTS = ("corpus", "input", "words")


def gather_words(spec: CountSpec, inputs: dict[str, Any], job: Job) -> Words:
    """The words of the input given: a corpus's training split, files and folders, or tables of words.

    Raises:
        RetraceError: no input or more than one, nothing to learn from, or a damaged file.
    """
    given = [name for name in INPUTS if inputs.get(name)]
    if len(given) != 1:
        there = " and ".join(f"--{name}" for name in given) or "none"
        raise RetraceError(f"give one of {', '.join(f'--{name}' for name in INPUTS)}; there is {there}")
    invalid = InvalidText()
    if given == ["words"]:
        files = [path / WORDS if path.is_dir() else path for path in inputs["words"]]
        words = unite(_read_table(file, spec.pattern) for file in files)
    else:
        files = list_sources(inputs["input"]) if given == ["input"] else [split_path(inputs["corpus"], "train")]
        text_field = spec.text_field if given == ["input"] else "text"
        threads = job.execution.threads if "threads" in job.execution.model_fields_set else None
        size = sum(file.stat().st_size for file in files)
        with job.progress(size / 1e6, "count words", "megabyte") as progress:
            blocks = file_blocks(files, spec.pattern, text_field, invalid, lambda read: progress.advance(read / 1e6))
            words = count_blocks(blocks, spec.pattern, threads)
    if not words.letters.tobytes().strip():
        raise RetraceError(f"{files[0]}{' and the others' * (len(files) > 1)} has no text to learn a tokenizer from")
    if invalid.num_sequences:
        job.say(
            f"warning: {invalid.num_sequences} sequences of bytes are not UTF-8, the first in {invalid.first}; "
            "each was read as U+FFFD"
        )
    job.record(
        num_words=int(words.counts.sum()),
        num_distinct_words=len(words.counts),
        invalid_utf8_sequences=invalid.num_sequences,
    )
    return words


def _read_table(file: Path, pattern: str) -> Words:
    """A table of words that this pattern makes."""
    record = file.with_name(RUN_RECORD)
    if record.is_file():
        counted = json.loads(record.read_text(encoding="utf-8")).get("spec", {}).get("pattern")
        if counted != pattern:
            raise RetraceError(f"{file} was counted with pattern {counted!r}: count it with {pattern!r}, or train so")
    words = read_words(file)
    alone = WordTable(pattern)
    alone.add_texts(words.letters, words.ends)
    if int(alone.words().counts.sum()) == len(words.counts):
        return words
    for word, _count in words.items():
        parts = WordTable(pattern)
        parts.add_texts(np.frombuffer(word, dtype=np.uint8), np.array([len(word)]))
        if len(parts.words().counts) != 1 or parts.words().counts[0] != 1:
            raise RetraceError(f"{file}: pattern {pattern!r} splits {word.decode()!r}, so it is no word: count anew")
    raise AssertionError(file)
