"""``tokenizer train`` and ``tokenizer count``: learn a vocabulary from text, or from the counts of its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.runs.methods import load_method
from pipelines.tokenizer.folder import write_tokenizer
from pipelines.tokenizer.gathering import gather_words
from pipelines.tokenizer.words import WORDS, write_words

if TYPE_CHECKING:
    from pipelines.runs.job import Job
    from pipelines.tokenizer.protocol import LearnedVocabulary, TokenizerMethod
    from pipelines.tokenizer.spec import CountSpec, TokenizerSpec
    from pipelines.tokenizer.words import Words


def train(spec: TokenizerSpec, inputs: dict[str, Any], job: Job) -> dict[str, float | int | str]:
    """Write the tokenizer artifact.

    Raises:
        RetraceError: no text, or a damaged input.
    """
    words = gather_words(spec, inputs, job)
    with job.progress(spec.vocab_size, "learn", "token") as progress:
        # Scaffolds take the size back at times.
        learned = learn_vocabulary(words, spec, lambda size: progress.advance(max(0, size - progress.done)))
        progress.advance(learned.vocab_size - progress.done)
    if learned.vocab_size < spec.vocab_size:
        job.say(
            f"warning: the text holds no more pairs seen {spec.min_frequency} times; the vocabulary stops at "
            f"{learned.vocab_size} of vocab_size {spec.vocab_size} (give more text, or ask for less)"
        )
    job.record(vocab_size_asked=spec.vocab_size, vocab_size_reached=learned.vocab_size)
    write_tokenizer(job.out, learned, spec.special_tokens, spec.pattern)
    num_scaffolds = len(learned.scaffold_tokens)
    return {
        "vocab_size": learned.vocab_size,
        "num_tokens_expanded": len(learned.tokens),
        "num_scaffold_tokens": num_scaffolds,
        "scaffold_share": num_scaffolds / learned.vocab_size,
    }


def count(spec: CountSpec, inputs: dict[str, Any], job: Job) -> dict[str, float | int | str]:
    """Write the table of words."""
    words = gather_words(spec, inputs, job)
    write_words(job.out / WORDS, words)
    return {"num_words": int(words.counts.sum()), "num_distinct_words": len(words.counts)}


def learn_vocabulary(
    words: Words, spec: TokenizerSpec, report: Callable[[int], None] = lambda size: None
) -> LearnedVocabulary:
    """Let the spec's method learn from words."""
    method: TokenizerMethod = load_method("tokenizer", spec.method)
    return method.learn(words, spec, report)
