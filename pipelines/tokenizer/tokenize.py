"""``tokenizer tokenize``: a corpus as Megatron token files, every document ended by the end-of-document id."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.data.corpus import SPLITS, read_documents, split_path
from pipelines.megatron.indexed import write_documents
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import input_key
from pipelines.tokenizer.loading import load_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.runs.job import Job
    from pipelines.tokenizer.loading import LoadedTokenizer
    from pipelines.tokenizer.spec import TokenizeSpec


def tokenize(spec: TokenizeSpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Write ``{train,validation}.{bin,idx}`` and tokens.json.

    Raises:
        RetraceError: a damaged corpus or tokenizer.
    """
    tokenizer = load_tokenizer(inputs["tokenizer"])
    threads = job.execution.threads if "threads" in job.execution.model_fields_set else None
    splits = {}
    for split in SPLITS:
        size = split_path(inputs["corpus"], split).stat().st_size
        with job.progress(size / 1e6, f"tokenize {split}", "megabyte") as progress:
            counted = CountedTexts(read_texts(inputs["corpus"], split), progress.advance)
            documents = encode_documents(tokenizer, counted, threads)
            num_documents, num_tokens = write_documents(job.out / split, documents, tokenizer.vocab_size)
        splits[split] = {"num_tokens": num_tokens, "num_bytes": counted.num_bytes, "num_documents": num_documents}
    body = {
        "vocab_size": tokenizer.vocab_size,
        "eod_id": tokenizer.eod_id,
        "splits": splits,
        "tokenizer_key": input_key(inputs["tokenizer"]),
    }
    (job.out / "tokens.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    train = splits["train"]
    return {
        "vocab_size": tokenizer.vocab_size,
        "num_train_tokens": train["num_tokens"],
        "num_validation_tokens": splits["validation"]["num_tokens"],
        "bytes_per_token": train["num_bytes"] / train["num_tokens"],
    }


def read_texts(corpus: Path, split: str) -> Iterator[str]:
    """The texts of a split, in order.

    Raises:
        RetraceError: a damaged line, or one that is not UTF-8; `data build` writes none.
    """
    try:
        for document in read_documents(corpus, split):
            # JSON can name half a surrogate pair, which is no character.
            document.text.encode()
            yield document.text
    except UnicodeError as broken:
        raise RetraceError(f"{split_path(corpus, split)} is not UTF-8 ({broken}): build the corpus again") from None


def encode_documents(
    tokenizer: LoadedTokenizer, texts: Iterator[str], num_threads: int | None = None
) -> Iterator[NDArray[np.int32]]:
    """Ids of every text, int32 [length + 1], ended by the end-of-document id."""
    end = np.array([tokenizer.eod_id], dtype=np.int32)
    return (np.concatenate([ids, end]) for ids in tokenizer.encode_each(texts, num_threads))


class CountedTexts:
    """Texts passing by, counted.

    Attributes:
        num_bytes: UTF-8 bytes so far.
        num_words: white-space separated words so far.
    """

    def __init__(self, texts: Iterator[str], advance: Callable[[float], None]) -> None:
        self.texts = texts
        self.advance = advance
        self.num_bytes = 0
        self.num_words = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        text = next(self.texts)
        size = len(text.encode())
        self.num_bytes += size
        self.num_words += len(text.split())
        self.advance(size / 1e6)
        return text
