"""The corpus artifact: ``train.jsonl`` and ``validation.jsonl`` with one document a line, and ``corpus.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data.docstrings import stable_fraction
from pipelines.runs.errors import RetraceError

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Document:
    """One text with the module, file or row it comes from; that is also the unit that is held out."""

    text: str
    id: str
    domain: str


def write_corpus(
    out: Path, documents: Iterable[Document], max_bytes: int | None, validation_fraction: float, seed: int
) -> dict[str, Any]:
    """Stream documents into the two splits, each to the side its id's digest says.

    Stops at ``max_bytes`` of text, cutting the last document at a paragraph if it does not fit.

    Returns:
        counts and digest, the body of corpus.json.

    Raises:
        RetraceError: a split stays empty.
    """
    counts = {split: {"num_documents": 0, "num_bytes": 0} for split in SPLITS}
    domains: dict[str, int] = {}
    digests = {split: hashlib.sha256() for split in SPLITS}
    total = 0
    files = {split: (out / f"{split}.jsonl").open("wb") for split in SPLITS}
    try:
        for document in documents:
            text = document.text
            if max_bytes is not None:
                text = _cut(text, max_bytes - total)
            if text:
                size = len(text.encode())
                held_out = stable_fraction(document.id, f"validation{seed}") < validation_fraction
                split = "validation" if held_out else "train"
                line = json.dumps({"text": text, "id": document.id, "domain": document.domain}, ensure_ascii=False)
                encoded = line.encode() + b"\n"
                files[split].write(encoded)
                digests[split].update(encoded)
                counts[split]["num_documents"] += 1
                counts[split]["num_bytes"] += size
                domains[document.domain] = domains.get(document.domain, 0) + size
                total += size
            if max_bytes is not None and (total >= max_bytes or text != document.text):
                break
    finally:
        for file in files.values():
            file.close()
    for split in SPLITS:
        if not counts[split]["num_documents"]:
            held = sum(counts[each]["num_documents"] for each in SPLITS)
            raise RetraceError(
                f"the {split} split is empty: {held} documents and validation_fraction {validation_fraction} left it "
                "none; change validation_fraction or seed, or give more text (raise max_bytes)"
            )
    digest = hashlib.sha256("".join(digests[split].hexdigest() for split in SPLITS).encode()).hexdigest()
    return {"splits": counts, "domains": dict(sorted(domains.items())), "digest": digest}


def split_path(corpus: Path, split: str) -> Path:
    """The file of a split.

    Raises:
        RetraceError: the folder has none.
    """
    path = corpus / f"{split}.jsonl"
    if not path.is_file():
        raise RetraceError(f"{path} is missing: make the corpus with `python -m pipelines data build --out {corpus}`")
    return path


def read_documents(corpus: Path, split: str) -> Iterator[Document]:
    """The documents of one split, in order.

    Raises:
        RetraceError: not a corpus, or a damaged line, named with its number.
    """
    path = split_path(corpus, split)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                fields = json.loads(line)
                yield Document(fields["text"], fields["id"], fields["domain"])
            except (ValueError, KeyError, TypeError):
                raise RetraceError(f"{path}:{number} is not a document: build the corpus again") from None


def read_summary(corpus: Path) -> dict[str, Any]:
    """The body of corpus.json: source, versions, counts, digest."""
    path = corpus / "corpus.json"
    if not path.is_file():
        raise RetraceError(f"{path} is missing: {corpus} is no corpus; make one with `python -m pipelines data build`")
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def _cut(text: str, num_bytes: int) -> str:
    """The longest beginning of a text within ``num_bytes``, at a paragraph, else a line, else a word."""
    encoded = text.encode()
    if len(encoded) <= num_bytes:
        return text
    head = encoded[:num_bytes].decode(errors="ignore")
    for mark in ("\n\n", "\n", " "):
        if mark in head:
            return head[: head.rindex(mark)].rstrip()
    return ""
