"""``tokenizer measure``: what a tokenizer does to held-out text, and how well training text fills its vocabulary."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.data.corpus import split_path
from pipelines.tokenizer.loading import batches, load_tokenizer
from pipelines.tokenizer.tokenize import CountedTexts, read_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.runs.job import Job
    from pipelines.tokenizer.loading import LoadedTokenizer
    from pipelines.tokenizer.spec import MeasureSpec

# Points of the curves of frequency over rank.
NUM_RANKS = 80


def measure(spec: MeasureSpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Measures of a tokenizer; the end-of-document token counts nowhere, since no text holds it.

    ``bytes_per_token``, ``fertility`` (tokens a whitespace-separated word) and ``renyi_efficiency`` are of the
    validation split, the same names behind ``out_of_domain_`` of the other corpus's validation split.
    ``never_seen_tokens``, ``rare_tokens`` (seen at most ``rare_count`` times, never included) and ``mean_frequency``
    are of the vocabulary over the training split. Medians of frequency are over the same text before scaffolds are
    taken apart, of the tokens a model sees and of scaffolds. metrics.jsonl has both sorted by frequency: one line a
    ``rank``, with ``visible_frequency`` and, as far as there are so many scaffolds, ``scaffold_frequency``.
    """
    tokenizer = load_tokenizer(inputs["tokenizer"])
    counts, _train = count_split(tokenizer, inputs["corpus"], "train", job)
    seen = visible_counts(tokenizer, counts)
    # Special tokens have no place in text: to miss them is no waste of the tokenizer.
    ordinary = np.delete(seen, special_ids(tokenizer))
    visible = np.delete(counts, [*special_ids(tokenizer), *range(tokenizer.vocab_size, tokenizer.num_tokens)])
    scaffolds = counts[tokenizer.vocab_size :]
    log_ranks(job, visible, scaffolds)
    held_out, texts = count_split(tokenizer, inputs["corpus"], "validation", job)
    values: dict[str, float | int | str] = {
        "vocab_size": tokenizer.vocab_size,
        "num_validation_tokens": int(visible_counts(tokenizer, held_out).sum()),
        **compression(tokenizer, held_out, texts, spec),
        "never_seen_tokens": int((ordinary == 0).sum()),
        "rare_tokens": int((ordinary <= spec.rare_count).sum()),
        "mean_frequency": float(ordinary.mean()),
        "median_visible_frequency": float(np.median(visible)),
    }
    if len(scaffolds):
        values["median_scaffold_frequency"] = float(np.median(scaffolds))
        values["taken_apart_share"] = float(scaffolds.sum() / counts.sum())
    if inputs.get("other"):
        other = compression(tokenizer, *count_split(tokenizer, inputs["other"], "validation", job), spec)
        values |= {f"out_of_domain_{name}": value for name, value in other.items()}
    return values


def compression(
    tokenizer: LoadedTokenizer, counts: NDArray[np.int64], texts: CountedTexts, spec: MeasureSpec
) -> dict[str, float]:
    """How a tokenizer shortens a text that it has encoded."""
    seen = visible_counts(tokenizer, counts)
    num_tokens = int(seen.sum())
    return {
        "bytes_per_token": texts.num_bytes / num_tokens,
        "fertility": num_tokens / texts.num_words,
        "renyi_efficiency": renyi_efficiency(seen, spec.renyi_alpha),
    }


def count_split(
    tokenizer: LoadedTokenizer, corpus: Path, split: str, job: Job
) -> tuple[NDArray[np.int64], CountedTexts]:
    """Occurrences [num_tokens] of every token in a split before scaffolds are taken apart, and the texts' sizes."""
    counts = np.zeros(tokenizer.num_tokens, dtype=np.int64)
    with job.progress(split_path(corpus, split).stat().st_size / 1e6, f"measure {split}", "megabyte") as progress:
        texts = CountedTexts(read_texts(corpus, split), progress.advance)
        for batch in batches(texts):
            ids = np.concatenate(tokenizer.encode_batch_with_scaffolds(batch))
            counts += np.bincount(ids, minlength=tokenizer.num_tokens)
    return counts, texts


def visible_counts(tokenizer: LoadedTokenizer, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Occurrences [vocab_size] of every id after scaffolds are taken apart, from those before."""
    table = tokenizer.table
    if table is None:
        return counts
    seen = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    np.add.at(seen, table.flat, np.repeat(counts, table.lengths))
    return seen


def log_ranks(job: Job, visible: NDArray[np.int64], scaffolds: NDArray[np.int64]) -> None:
    """Log frequencies from the highest down, at ranks that are even on a logarithmic axis."""
    sorted_visible, sorted_scaffolds = (np.sort(each)[::-1].tolist() for each in (visible, scaffolds))
    for rank in np.unique(np.geomspace(1, len(visible), NUM_RANKS).round().astype(int)).tolist():
        line = {"rank": rank, "visible_frequency": sorted_visible[rank - 1]}
        if rank <= len(sorted_scaffolds):
            line["scaffold_frequency"] = sorted_scaffolds[rank - 1]
        job.log(step=rank, **line)


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
