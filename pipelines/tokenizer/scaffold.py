"""Scaffold-BPE: byte-pair encoding that takes rare intermediate tokens out of the vocabulary again.

Lian et al., "Scaffold-BPE" (arXiv 2404.17808), Algorithms 1 and 2. After each merge of (a, b), a child that has become
rarer than the head of the queue is marked as a scaffold: it stays a step of the merging but frees its vocabulary slot;
it waits in the queue with its own frequency and is re-admitted when it becomes the head.

Where the paper is silent: the head is the best entry among pairs and scaffolds; at equal frequency a scaffold comes
before a pair, lower ids before higher; single bytes and special tokens are never scaffolds; both children are compared
with the same head, read after the counts are updated; a merge that yields an existing scaffold re-admits it and is
still carried out. With ``scaffolding=False`` this is plain byte-pair encoding.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from pipelines.tokenizer.learning import Learner
from pipelines.tokenizer.protocol import Report


class Scaffolds:
    """Tokens without a place in the vocabulary, and those of them that still occur as a queue by frequency.

    A scaffold only becomes rarer while it is one, so entries are put right when they come to the top.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        """Begin with none.

        Args:
            counts: occurrences of every token, kept up to date by others.
        """
        self.tokens: set[int] = set()
        self._counts = counts
        self._queue: list[tuple[int, int]] = []

    def add(self, token: int) -> None:
        """Mark a token."""
        self.tokens.add(token)
        if self._counts[token]:
            heapq.heappush(self._queue, (-self._counts[token], token))

    def head(self) -> tuple[int, int] | None:
        """(count, token) of the most frequent, of equals the one of smallest id; None when none occurs."""
        while self._queue:
            entered, token = self._queue[0]
            count = self._counts[token] if token in self.tokens else 0
            if count == -entered:
                return count, token
            if 0 < count < -entered:
                heapq.heapreplace(self._queue, (-count, token))
            else:
                heapq.heappop(self._queue)
        return None


def learn(
    learner: Learner, vocab_size: int, report: Report, *, min_frequency: int = 1, scaffolding: bool = True
) -> set[int]:
    """Merge until ``vocab_size`` tokens are no scaffolds, or nothing occurs ``min_frequency`` times (Algorithm 1).

    Returns:
        the scaffolds.
    """
    scaffolds = Scaffolds(learner.counts)
    while (size := len(learner.tokens) - len(scaffolds.tokens)) < vocab_size:
        pair, scaffold = learner.head(), scaffolds.head()
        if max(pair[0] if pair else 0, scaffold[0] if scaffold else 0) < min_frequency:
            break
        if scaffold is not None and (pair is None or scaffold[0] >= pair[0]):
            scaffolds.tokens.remove(scaffold[1])
            continue
        assert pair is not None
        _count, left, right = pair
        scaffolds.tokens.discard(learner.merge(left, right))
        if scaffolding:
            _mark_children(learner, scaffolds, left, right)
        learner.tell(report, size)
    return scaffolds.tokens


def _mark_children(learner: Learner, scaffolds: Scaffolds, left: int, right: int) -> None:
    """Mark each child of a merge that is rarer now than the head of the queue."""
    pair, scaffold = learner.head(), scaffolds.head()
    threshold = max(pair[0] if pair else 0, scaffold[0] if scaffold else 0)
    for child in {left, right} - scaffolds.tokens:
        if child >= learner.num_pinned and learner.counts[child] < threshold:
            scaffolds.add(child)


def expansions(
    tokens: Sequence[bytes], merges: Sequence[tuple[int, int, int]], scaffolds: set[int]
) -> dict[int, list[int]]:
    """What each scaffold is taken apart into: the shortest cover by vocabulary tokens along the merges that make it.

    Among covers of equal length the one with the lexicographically smallest ids is taken (Algorithm 2 leaves it open).
    """
    parents: dict[int, list[tuple[int, int]]] = {}
    for a, b, t in merges:
        parents.setdefault(t, []).append((a, b))
    covers: dict[int, list[int]] = {}
    # Parents are shorter strings than their product, so by then both have their covers.
    for token in sorted(range(len(tokens)), key=lambda token: len(tokens[token])):
        if token not in scaffolds:
            covers[token] = [token]
        else:
            options = [covers[a] + covers[b] for a, b in parents[token]]
            covers[token] = min(options, key=lambda cover: (len(cover), cover))
    return {token: covers[token] for token in sorted(scaffolds)}
