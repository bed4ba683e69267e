"""``data build``: text from one of three sources into a corpus with two splits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipelines.data.corpus import Document, write_corpus
from pipelines.data.embedded import prose_documents, source_documents
from pipelines.data.hub import hub_documents
from pipelines.data.local import folder_documents
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.data.spec import CorpusSpec
    from pipelines.runs.job import Job


def build(spec: CorpusSpec, inputs: dict[str, Path | None], job: Job) -> dict[str, float | int | str]:
    """Write the corpus artifact.

    Raises:
        RetraceError: the source is missing, damaged or too small; see the readers.
    """
    documents = _documents(spec, inputs.get("folder"))
    if spec.max_bytes is None:
        summary = write_corpus(job.out, documents, None, spec.validation_fraction, spec.seed)
    else:
        with job.progress(spec.max_bytes / 1e6, f"{spec.source} text", "megabyte") as progress:
            reported = _reported(documents, progress.advance)
            summary = write_corpus(job.out, reported, spec.max_bytes, spec.validation_fraction, spec.seed)
    described: dict[str, Any] = {"source": spec.source}
    if spec.source == "embedded":
        described |= {"domain": spec.domain, "versions": spec.versions}
    described |= summary
    (job.out / "corpus.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    splits = summary["splits"]
    return {
        "num_train_documents": splits["train"]["num_documents"],
        "num_train_bytes": splits["train"]["num_bytes"],
        "num_validation_documents": splits["validation"]["num_documents"],
        "num_validation_bytes": splits["validation"]["num_bytes"],
        "num_domains": len(summary["domains"]),
        "digest": summary["digest"],
    }


def _documents(spec: CorpusSpec, folder: Path | None) -> Iterator[Document]:
    if spec.source == "local":
        if folder is None:
            raise RetraceError("--folder is missing: source local reads a folder of .txt or .jsonl files")
        return folder_documents(folder, spec.text_field, spec.seed)
    if folder is not None:
        raise RetraceError(f"--folder means nothing for source {spec.source}: leave it out, or set source to local")
    if spec.source == "hub":
        assert spec.name is not None
        return hub_documents(spec.name, spec.config, spec.revision, spec.split, spec.text_field)
    if spec.domain == "source":
        return source_documents(spec.seed)
    return prose_documents(spec.packages, spec.seed)


def _reported(documents: Iterator[Document], advance: Any) -> Iterator[Document]:
    for document in documents:
        yield document
        advance(len(document.text.encode()) / 1e6)
