"""Scaffold-BPE: byte-pair encoding that takes rare intermediate tokens out of the vocabulary again.

Lian et al., "Scaffold-BPE" (arXiv 2404.17808), Algorithms 1 and 2. After each merge of (a, b), a child that has become
rarer than the head of the queue is marked as a scaffold: it stays a step of the merging but frees its vocabulary slot;
it waits in the queue with its own frequency and is re-admitted when it becomes the head.

Where the paper is silent: the head is the best entry among pairs and scaffolds; at equal frequency a scaffold comes
before a pair, lower ids before higher; single bytes and special tokens are never scaffolds; both children are compared
with the same head, read after the counts are updated; a merge that yields an existing scaffold re-admits it and is
still carried out. With ``scaffolding=False`` this is plain byte-pair encoding, merge for merge that of `tokenizers`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

# Kinds of queue entries; at equal frequency the smaller comes first.
_SCAFFOLD, _PAIR = 0, 1


@dataclass
class Learned:
    """What the learning leaves behind, over ids in order of creation.

    Attributes:
        tokens: string of every id; the alphabet first.
        merges: (left, right, result) in the order made.
        scaffolds: ids without a place in the vocabulary.
        frequencies: occurrences of every id in the final segmentation.
    """

    tokens: list[str]
    merges: list[tuple[int, int, int]] = field(default_factory=list)
    scaffolds: set[int] = field(default_factory=set)
    frequencies: list[int] = field(default_factory=list)

    @property
    def vocab_size(self) -> int:
        """Tokens that are no scaffolds."""
        return len(self.tokens) - len(self.scaffolds)


class _Segmentation:
    """The words as lists of ids, with pair counts, token counts and an index of where a pair may occur."""

    def __init__(self, words: Mapping[str, int], ids: Mapping[str, int], num_tokens: int) -> None:
        self.words = [[ids[symbol] for symbol in word] for word in words]
        self.weights = list(words.values())
        self.token_counts = [0] * num_tokens
        self.pair_counts: dict[tuple[int, int], int] = {}
        # May name words that no longer hold the pair; merging looks.
        self.occurrences: dict[tuple[int, int], set[int]] = {}
        for index, (word, weight) in enumerate(zip(self.words, self.weights, strict=True)):
            for token in word:
                self.token_counts[token] += weight
            for pair in pairwise(word):
                self.pair_counts[pair] = self.pair_counts.get(pair, 0) + weight
                self.occurrences.setdefault(pair, set()).add(index)

    def merge(self, a: int, b: int, t: int) -> list[tuple[int, int]]:
        """Replace (a, b) by t in every word, left to right; returns the pairs that became more frequent."""
        changes: dict[tuple[int, int], int] = {}
        change = changes.get
        replaced = 0
        for index in self.occurrences.pop((a, b)):
            word, weight = self.words[index], self.weights[index]
            merged: list[int] = []
            place, last = 0, len(word) - 1
            while place <= last:
                token = word[place]
                if token != a or place == last or word[place + 1] != b:
                    merged.append(token)
                    place += 1
                    continue
                replaced += weight
                # The counts are kept exact for the word as it stands after each single replacement.
                if merged:
                    left = merged[-1]
                    changes[left, a] = change((left, a), 0) - weight
                    changes[left, t] = change((left, t), 0) + weight
                    self.occurrences.setdefault((left, t), set()).add(index)
                place += 2
                if place <= last:
                    right = word[place]
                    changes[b, right] = change((b, right), 0) - weight
                    changes[t, right] = change((t, right), 0) + weight
                    self.occurrences.setdefault((t, right), set()).add(index)
                merged.append(t)
            self.words[index] = merged
        del self.pair_counts[a, b]
        changes.pop((a, b), None)
        self.token_counts[a] -= replaced
        self.token_counts[b] -= replaced
        self.token_counts[t] += replaced
        risen = []
        for pair, amount in changes.items():
            count = self.pair_counts.get(pair, 0) + amount
            if count > 0:
                self.pair_counts[pair] = count
                if amount > 0:
                    risen.append(pair)
            else:
                self.pair_counts.pop(pair, None)
                self.occurrences.pop(pair, None)
        return risen


class _Queue:
    """Pairs and scaffolds by frequency. Entries whose frequency fell are put right when they reach the head."""

    def __init__(self, text: _Segmentation, scaffolds: set[int]) -> None:
        self.text = text
        self.scaffolds = scaffolds
        self.heap = [(-count, _PAIR, a, b) for (a, b), count in text.pair_counts.items()]
        heapq.heapify(self.heap)

    def push_pair(self, pair: tuple[int, int]) -> None:
        heapq.heappush(self.heap, (-self.text.pair_counts[pair], _PAIR, *pair))

    def push_scaffold(self, token: int) -> None:
        if self.text.token_counts[token] > 0:
            heapq.heappush(self.heap, (-self.text.token_counts[token], _SCAFFOLD, token, 0))

    def head(self) -> tuple[int, int, int, int] | None:
        """(frequency, kind, id, id) of the best live entry, left in place; None when there is none."""
        heap = self.heap
        while heap:
            negative, kind, x, y = heap[0]
            if kind == _PAIR:
                count = self.text.pair_counts.get((x, y), 0)
            else:
                count = self.text.token_counts[x] if x in self.scaffolds else 0
            if count == -negative:
                return count, kind, x, y
            if 0 < count < -negative:
                heapq.heapreplace(heap, (-count, kind, x, y))
            else:
                # Gone, or risen: whatever rises is pushed again when it does.
                heapq.heappop(heap)
        return None

    def pop(self) -> None:
        heapq.heappop(self.heap)


def learn(
    words: Mapping[str, int],
    alphabet: Sequence[str],
    vocab_size: int,
    *,
    min_frequency: int = 1,
    scaffolding: bool = True,
) -> Learned:
    """Learn merges until ``vocab_size`` tokens are no scaffolds, or nothing occurs ``min_frequency`` times.

    Args:
        words: word -> occurrences; every character is in the alphabet.
        alphabet: special tokens and single characters; their places are their ids, and none becomes a scaffold.
    """
    learned = Learned(tokens=list(alphabet))
    id_of = {token: place for place, token in enumerate(alphabet)}
    text = _Segmentation(words, id_of, len(alphabet))
    scaffolds = learned.scaffolds
    queue = _Queue(text, scaffolds)
    pinned = len(alphabet)
    while learned.vocab_size < vocab_size:
        head = queue.head()
        if head is None or head[0] < min_frequency:
            break
        queue.pop()
        _frequency, kind, a, b = head
        if kind == _SCAFFOLD:
            scaffolds.remove(a)
            continue
        string = learned.tokens[a] + learned.tokens[b]
        t = id_of.setdefault(string, len(learned.tokens))
        if t == len(learned.tokens):
            learned.tokens.append(string)
            text.token_counts.append(0)
        scaffolds.discard(t)
        learned.merges.append((a, b, t))
        for pair in text.merge(a, b, t):
            queue.push_pair(pair)
        if not scaffolding:
            continue
        for child in {a, b} & scaffolds:
            queue.push_scaffold(child)
        best = queue.head()
        threshold = best[0] if best is not None else 0
        for child in (a, b) if a != b else (a,):
            if child >= pinned and child not in scaffolds and text.token_counts[child] < threshold:
                scaffolds.add(child)
                queue.push_scaffold(child)
    learned.frequencies = text.token_counts
    return learned


def expansions(learned: Learned) -> dict[int, list[int]]:
    """What each scaffold is taken apart into: the shortest cover by vocabulary tokens along the merges that make it.

    Among covers of equal length the one with the lexicographically smallest ids is taken (Algorithm 2 leaves it open).
    """
    parents: dict[int, list[tuple[int, int]]] = {}
    for a, b, t in learned.merges:
        parents.setdefault(t, []).append((a, b))
    covers: dict[int, list[int]] = {}
    # Parents are shorter strings than their product, so by then both have their covers.
    for token in sorted(range(len(learned.tokens)), key=lambda token: len(learned.tokens[token])):
        if token not in learned.scaffolds:
            covers[token] = [token]
        else:
            options = [covers[a] + covers[b] for a, b in parents[token]]
            covers[token] = min(options, key=lambda cover: (len(cover), cover))
    return {token: covers[token] for token in sorted(learned.scaffolds)}
