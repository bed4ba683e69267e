"""PickyBPE: byte-pair encoding that splits a token again once it occurs almost only inside a longer one.

Chizhov et al., "BPE Gets Picky" (EMNLP 2024, arXiv 2409.04599), Algorithm 1. After a merge of (a, b), a child x is
removed when its *intersection over self* IoS(x) = f(a, b) / f(x), with frequencies as before the merge, is above the
threshold: its other occurrences become the tokens it is made of. It may come back by a later merge. Encoding replays
merges and splits in the order learnt (``picky_encoding``).

As in the authors' code: IoS must be above the threshold, not equal to it, so that 1 is plain BPE; of a pair (x, x),
f(x) counts what is left and one for each merge; the left child is dealt with first. Otherwise than there: bytes in
place of characters; a merge that yields a token that exists does not count as one more; no word of the text is looked
up as a whole when encoding, so that encoding the training text gives the segmentation that was learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.protocol import LearnedVocabulary, Report

if TYPE_CHECKING:
    from pipelines.tokenizer.learning import Learner
    from pipelines.tokenizer.spec import TokenizerSpec
    from pipelines.tokenizer.words import Words

# A token is made again now and then; with a threshold near 0 that may never end.
_MERGES_PER_TOKEN = 32


@dataclass(frozen=True)
class PickyBpe:
    """PickyBPE; ``threshold = 1`` removes nothing, which is plain BPE."""

    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise RetraceError(f"picky_bpe: threshold must be above 0 and at most 1 (got {self.threshold})")

    def learn(self, words: Words, spec: TokenizerSpec, report: Report) -> LearnedVocabulary:
        """Merge and remove until ``vocab_size`` tokens are there.

        Raises:
            RetraceError: tokens are removed as fast as they are made.
        """
        from pipelines.tokenizer.learning import Learner

        learner = Learner(words, spec.special_tokens, splits=True)
        removed: set[int] = set()
        while (size := len(learner.tokens) - len(removed)) < spec.vocab_size:
            head = learner.head()
            if head is None or head[0] < spec.min_frequency:
                break
            if len(learner.merges) > _MERGES_PER_TOKEN * spec.vocab_size:
                raise RetraceError(
                    f"picky_bpe: with threshold {self.threshold} tokens go as fast as they come, and the vocabulary "
                    f"stays at {size} of {spec.vocab_size}: raise the threshold"
                )
            _count, left, right = head
            before = learner.counts[left]
            removed.discard(learner.merge(left, right))
            replaced = (before - learner.counts[left]) // (2 if left == right else 1)
            for child in dict.fromkeys((left, right)):
                if child >= learner.num_pinned and replaced > self.threshold * (learner.counts[child] + replaced):
                    removed.add(child)
                    learner.split(child, _parts(learner, child, removed))
            learner.tell(report, size)
        return learner.vocabulary(removed, {token: _parts(learner, token, removed) for token in removed})


def _parts(learner: Learner, token: int, removed: set[int]) -> list[int]:
    """The tokens of the vocabulary that a token is made of, along the merges that first made each."""
    parts = []
    waiting = [token]
    while waiting:
        token = waiting.pop()
        if token in removed:
            waiting += reversed(learner.parents[token])
        else:
            parts.append(token)
    return parts
