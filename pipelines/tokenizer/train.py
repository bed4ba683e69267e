"""``tokenizer train``: learn a vocabulary from the training split of a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.data.corpus import read_documents
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method
from pipelines.tokenizer.folder import write_tokenizer

if TYPE_CHECKING:
    from pipelines.runs.job import Job
    from pipelines.tokenizer.protocol import TokenizerMethod
    from pipelines.tokenizer.spec import TokenizerSpec


def train(spec: TokenizerSpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Write the tokenizer artifact.

    Raises:
        RetraceError: the corpus has no text.
    """
    corpus = inputs["corpus"]
    if not any(document.text.strip() for document in read_documents(corpus, "train")):
        raise RetraceError(f"{corpus}/train.jsonl has no text to learn a tokenizer from: build a corpus with text")
    method: TokenizerMethod = load_method("tokenizer", spec.method)

    def texts() -> Iterator[str]:
        return (document.text for document in read_documents(corpus, "train"))

    learned = method.learn(texts, spec)
    if learned.vocab_size < spec.vocab_size:
        job.say(
            f"warning: the corpus holds no more pairs seen {spec.min_frequency} times; the vocabulary stops at "
            f"{learned.vocab_size} of vocab_size {spec.vocab_size} (give more text, or ask for less)"
        )
    job.record(vocab_size_asked=spec.vocab_size, vocab_size_reached=learned.vocab_size)
    write_tokenizer(job.out, learned, spec.special_tokens)
    num_scaffolds = len(learned.scaffold_tokens)
    return {
        "vocab_size": learned.vocab_size,
        "num_tokens_expanded": len(learned.tokens),
        "num_scaffold_tokens": num_scaffolds,
        "scaffold_share": num_scaffolds / learned.vocab_size,
    }
