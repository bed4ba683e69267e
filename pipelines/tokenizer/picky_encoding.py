"""Encoding with a PickyBPE vocabulary: merges and splits of a word, replayed in the order in which they were learnt.

This file is also copied into tokenizer folders, so it imports nothing of the package.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any


class PickyEncoder:
    """Words (pre-tokens in byte-level characters) to ids.

    An event replaces a run of tokens, a pair or a single one, by other tokens. Of all events after the last one that
    any run of the word takes part in, the earliest is next, so what happens to a word is what happened in learning.
    """

    def __init__(self, ids: Mapping[str, int], events: Sequence[Sequence[Any]], num_remembered: int = 1 << 18) -> None:
        """Prepare events for looking up.

        Args:
            ids: token -> id, of all tokens that events name.
            events: merges ``[left, right]`` and splits ``[token, [part, part, ...]]``.
            num_remembered: words whose ids are kept; when there are more, all are forgotten.
        """
        self._ids = ids
        self._events: list[tuple[tuple[int, ...], list[int]]] = []
        self._times: dict[tuple[int, ...], list[int]] = {}
        for token, other in events:
            merges = isinstance(other, str)
            run = tuple(ids[each] for each in ((token, other) if merges else (token,)))
            result = [ids[each] for each in ((token + other,) if merges else other)]
            self._times.setdefault(run, []).append(len(self._events))
            self._events.append((run, result))
        self._num_remembered = num_remembered
        self._words: dict[str, list[int]] = {}

    def encode_word(self, word: str) -> list[int]:
        """Ids of a word."""
        known = self._words.get(word)
        if known is None:
            if len(self._words) >= self._num_remembered:
                self._words.clear()
            known = self._words[word] = self._replay([self._ids[symbol] for symbol in word])
        return known

    def _replay(self, tokens: list[int]) -> list[int]:
        now = -1
        while True:
            runs = {*pairwise(tokens), *((token,) for token in tokens)}
            times = [time for run in runs if (time := self._next(run, now)) is not None]
            if not times:
                return tokens
            now = min(times)
            tokens = _replaced(tokens, *self._events[now])

    def _next(self, run: tuple[int, ...], now: int) -> int | None:
        """The first event of a run after a given one."""
        times = self._times.get(run)
        if times is None or times[-1] <= now:
            return None
        return times[bisect_right(times, now)]


def _replaced(tokens: list[int], run: tuple[int, ...], result: list[int]) -> list[int]:
    """Tokens with every run, from left to right, replaced by a result."""
    new: list[int] = []
    place = 0
    while place < len(tokens):
        if tuple(tokens[place : place + len(run)]) == run:
            new += result
            place += len(run)
        else:
            new.append(tokens[place])
            place += 1
    return new
