"""``translation pairs``: parallel text into pairs of sentences, and into a corpus that a joint tokenizer learns from.

The artifact holds ``pairs.{train,validation,test}.jsonl`` with one ``{"source", "target"}`` a line. Its ``train.jsonl``
and ``validation.jsonl`` have the same sentences of both languages, one document a line, so that it is a corpus, too.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.data.corpus import SPLITS
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.runs.job import Job
    from pipelines.translation.spec import PairsSpec

Pair = tuple[str, str]
ALL = (*SPLITS, "test")


def pairs(spec: PairsSpec, inputs: dict[str, Path], job: Job) -> dict[str, int]:
    """Write the artifact; returns the number of pairs of each split.

    Raises:
        RetraceError: a file is missing, is not UTF-8, or its two sides differ in length; names it.
    """
    stems = {"train": spec.train, "validation": spec.validation, "test": spec.test}
    limits = {"train": spec.max_train, "test": spec.max_test}
    counts = {}
    for split, stem in stems.items():
        found = _aligned(inputs["folder"], stem, spec)[: limits.get(split)]
        if not found:
            raise RetraceError(f"{inputs['folder']}: {stem}.{spec.source} has no sentence that has a translation")
        counts[f"num_{split}_pairs"] = len(found)
        lines = [json.dumps({"source": a, "target": b}, ensure_ascii=False) + "\n" for a, b in found]
        pairs_path(job.out, split).write_text("".join(lines), encoding="utf-8")
        if split in SPLITS:
            _write_corpus(job.out, split, found, spec)
    return counts


def pairs_path(artifact: Path, split: str) -> Path:
    """The file of a split's pairs."""
    return artifact / f"pairs.{split}.jsonl"


def read_pairs(artifact: Path, split: str) -> list[Pair]:
    """(source, target) of every pair of a split, in order.

    Raises:
        RetraceError: the artifact has no such file.
    """
    path = pairs_path(artifact, split)
    if not path.is_file():
        raise RetraceError(f"{path} is missing: make it with `python -m pipelines translation pairs`")
    with path.open(encoding="utf-8", newline="\n") as file:
        return [(line["source"], line["target"]) for line in map(json.loads, file)]


def _aligned(folder: Path, stem: str, spec: PairsSpec) -> list[Pair]:
    """Pairs of one split; a line that is empty on either side has no translation."""
    sides = [list(_lines(_side(folder, stem, language))) for language in (spec.source, spec.target)]
    if len(sides[0]) != len(sides[1]):
        raise RetraceError(
            f"{folder}: {stem}.{spec.source} has {len(sides[0])} lines and {stem}.{spec.target} {len(sides[1])}: "
            "line n of one must be the translation of line n of the other"
        )
    return [(a, b) for a, b in zip(*sides, strict=True) if a and b]


def _side(folder: Path, stem: str, language: str) -> Path:
    for name in (f"{stem}.{language}", f"{stem}.{language}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise RetraceError(f"--folder {folder} has no {stem}.{language} and no {stem}.{language}.gz")


def _lines(path: Path) -> Iterator[str]:
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError) as fault:
        raise RetraceError(f"{path}: not a whole gzip file ({fault})") from None
    except UnicodeDecodeError as fault:
        raise RetraceError(f"{path}: not UTF-8 at byte {fault.start}") from None
    # Only line ends of files: a sentence may hold other separators that splitlines would cut at.
    return (line.strip() for line in text.removesuffix("\n").split("\n"))


def _write_corpus(out: Path, split: str, found: list[Pair], spec: PairsSpec) -> None:
    with (out / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for place, pair in enumerate(found):
            for language, text in zip((spec.source, spec.target), pair, strict=True):
                document = {"text": text, "id": f"{split}:{place}:{language}", "domain": language}
                file.write(json.dumps(document, ensure_ascii=False) + "\n")
