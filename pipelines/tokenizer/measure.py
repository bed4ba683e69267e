"""``tokenizer measure``: what a tokenizer does to held-out text, and how well training text fills its vocabulary."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.data.corpus import split_path
from pipelines.tokenizer.loading import load_tokenizer
from pipelines.tokenizer.tokenize import CountedTexts, batches, read_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.runs.job import Job
    from pipelines.tokenizer.loading import LoadedTokenizer
    from pipelines.tokenizer.spec import MeasureSpec


def measure(spec: MeasureSpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Measures of a tokenizer; the end-of-document token counts nowhere, since no text holds it.

    ``bytes_per_token``, ``fertility`` (tokens a whitespace-separated word) and ``renyi_efficiency`` are of the
    validation split; ``never_seen_tokens``, ``rare_tokens`` (seen at most ``rare_count`` times, never included) and
    ``mean_frequency`` are of the vocabulary over the training split.
    """
    tokenizer = load_tokenizer(inputs["tokenizer"])
    counts = {}
    for split in ("train", "validation"):
        size = split_path(inputs["corpus"], split).stat().st_size
        with job.progress(size / 1e6, f"measure {split}", "megabyte") as progress:
            texts = CountedTexts(read_texts(inputs["corpus"], split), progress.advance)
            counts[split] = count_tokens(tokenizer, texts)
    held_out = counts["validation"]
    num_tokens = int(held_out.sum())
    # Special tokens have no place in text: to miss them is no waste of the tokenizer.
    ordinary = np.delete(counts["train"], special_ids(tokenizer))
    return {
        "vocab_size": tokenizer.vocab_size,
        "num_validation_tokens": num_tokens,
        "bytes_per_token": texts.num_bytes / num_tokens,
        "fertility": num_tokens / texts.num_words,
        "renyi_efficiency": renyi_efficiency(held_out, spec.renyi_alpha),
        "never_seen_tokens": int((ordinary == 0).sum()),
        "rare_tokens": int((ordinary <= spec.rare_count).sum()),
        "mean_frequency": float(ordinary.mean()),
    }


def count_tokens(tokenizer: LoadedTokenizer, texts: CountedTexts) -> NDArray[np.int64]:
    """Occurrences [vocab_size] of every id in the texts."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for batch in batches(texts):
        counts += np.bincount(np.concatenate(tokenizer.encode_batch(batch)), minlength=tokenizer.vocab_size)
    return counts


def special_ids(tokenizer: LoadedTokenizer) -> list[int]:
    """Ids of the special tokens."""
    return sorted(tokenizer.encoder.get_added_tokens_decoder())


def renyi_efficiency(counts: NDArray[np.int64], alpha: float) -> float:
    """Rényi entropy of the token distribution over its greatest possible value.

    ``log(sum p^alpha) / (1 - alpha) / log(V)`` with V the size of the vocabulary (Zouhar et al. 2023, arXiv
    2306.16842, where alpha = 2.5 agreed best with translation quality).

    Args:
        counts: [V] occurrences of every id.
    """
    probabilities = counts[counts > 0] / counts.sum()
    return math.log(float((probabilities**alpha).sum())) / (1 - alpha) / math.log(len(counts))
