"""Counting the words (pre-tokens) of texts of any size: blocks shared among threads, a table for each thread.

The counts depend on the texts alone: they add up the same in any order, and memory holds only the words that differ and
a few blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from pipelines.tokenizer.character_classes import class_table
from pipelines.tokenizer.compiled import Bytes, Int64s, compiled, inlined
from pipelines.tokenizer.scanner import CODE_OF_PATTERN, word_end
from pipelines.tokenizer.words import Words

# A slot of the table: where the word's bytes are << 32 | their number (0: an empty slot), and its occurrences.
_WHERE, _COUNT, _SLOT = range(3)
# How far counting is: the text, the place in it, words and bytes in the table.
_TEXT, _PLACE, _WORDS, _BYTES = range(4)
_LENGTH_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Block:
    """Some texts, one after another.

    Attributes:
        letters: their UTF-8.
        ends: [texts] where each ends.
    """

    letters: Bytes
    ends: Int64s


def count_blocks(blocks: Iterable[Block], pattern: str, threads: int | None = None) -> Words:
    """Words of all blocks with their counts.

    Args:
        threads: default: the cores this process may use.
    """
    threads = threads or len(os.sched_getaffinity(0))
    tables = [WordTable(pattern) for _ in range(threads)]
    idle: SimpleQueue[WordTable] = SimpleQueue()
    for table in tables:
        idle.put(table)

    def count(block: Block) -> None:
        table = idle.get()
        try:
            table.add_texts(block.letters, block.ends)
        finally:
            idle.put(table)

    pending: set[Future[None]] = set()
    with ThreadPoolExecutor(threads) as pool:
        for block in blocks:
            # One block for each thread waits ready; more would only take memory.
            if len(pending) == 2 * threads:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
            pending.add(pool.submit(count, block))
        for each in pending:
            each.result()
    return _united(tables)


def unite(parts: Iterable[Words]) -> Words:
    """Words counted apart, together."""
    table = WordTable()
    for words in parts:
        table.add_words(words)
    return table.words()


def _united(tables: list[WordTable]) -> Words:
    """All words of tables, which are emptied one by one."""
    whole = tables.pop()
    while tables:
        whole.add_words(tables.pop().words())
    return whole.words()


class WordTable:
    """Words with their counts, for one thread at a time."""

    def __init__(self, pattern: str = "none") -> None:
        self._pattern = CODE_OF_PATTERN[pattern]
        self._slots = np.zeros(_SLOT << 14, dtype=np.int64)
        self._letters = np.empty(1 << 17, dtype=np.uint8)
        self._progress = np.zeros(4, dtype=np.int64)

    def add_texts(self, letters: Bytes, ends: Int64s) -> None:
        """Count the words of texts.

        Args:
            letters: valid UTF-8, one text after another.
            ends: [texts] where each ends.
        """
        self._progress[[_TEXT, _PLACE]] = 0
        classes = class_table()
        while needed := _count_words(letters, ends, len(ends), self._pattern, classes, *self._table()):
            self._grow(needed)

    def add_words(self, words: Words) -> None:
        """Add words counted elsewhere."""
        self._progress[[_TEXT, _PLACE]] = 0
        while needed := _add_words(words.letters, words.ends, words.counts, len(words.counts), *self._table()):
            self._grow(needed)

    def words(self) -> Words:
        """All of them, in order of first appearance in this table."""
        slots = self._slots.reshape(-1, _SLOT)
        slots = slots[slots[:, _WHERE] > 0]
        slots = slots[np.argsort(slots[:, _WHERE])]
        ends = np.cumsum(slots[:, _WHERE] & _LENGTH_MASK)
        return Words(self._letters[: self._progress[_BYTES]], ends, slots[:, _COUNT].copy())

    def _table(self) -> tuple[Int64s, int, Bytes, int, Int64s]:
        return self._slots, len(self._slots) // _SLOT - 1, self._letters, len(self._letters), self._progress

    def _grow(self, needed: int) -> None:
        """Room for more words, at least for one of as many bytes."""
        num_slots = len(self._slots) // _SLOT
        if _is_full(self._progress, num_slots - 1):
            old = self._slots
            self._slots = np.zeros(2 * len(old), dtype=np.int64)
            _move_words(old, num_slots, self._slots, 2 * num_slots - 1, self._letters)
        if self._progress[_BYTES] + needed > len(self._letters):
            larger = np.empty(max(2 * len(self._letters), int(self._progress[_BYTES]) + needed), dtype=np.uint8)
            larger[: len(self._letters)] = self._letters
            self._letters = larger


@inlined
def _is_full(progress: Int64s, mask: int) -> bool:
    """Whether three of four slots are taken."""
    return bool(4 * progress[_WORDS] >= 3 * mask)


@inlined
def word_hash(letters: Bytes, start: int, end: int) -> int:
    """A number from 0 to 2^63 - 1 for a hash table."""
    mixed = np.uint64(end - start)
    for place in range(start, end):
        mixed = (mixed ^ np.uint64(letters[place])) * np.uint64(0x9E3779B97F4A7C15)
    return int(np.int64((mixed ^ (mixed >> np.uint64(32))) >> np.uint64(1)))


@inlined
def _add_word(
    letters: Bytes, start: int, end: int, count: int, slots: Int64s, mask: int, arena: Bytes, progress: Int64s
) -> None:
    """Add to a word's count; there must be room for one more word."""
    size = end - start
    slot = word_hash(letters, start, end) & mask
    while slots[_SLOT * slot + _WHERE] != 0:
        if slots[_SLOT * slot + _WHERE] & _LENGTH_MASK == size:
            first = slots[_SLOT * slot + _WHERE] >> 32
            place = 0
            while place < size and arena[first + place] == letters[start + place]:
                place += 1
            if place == size:
                slots[_SLOT * slot + _COUNT] += count
                return
        slot = (slot + 1) & mask
    first = progress[_BYTES]
    for place in range(size):
        arena[first + place] = letters[start + place]
    slots[_SLOT * slot + _WHERE] = first << 32 | size
    slots[_SLOT * slot + _COUNT] = count
    progress[_WORDS] += 1
    progress[_BYTES] += size


@compiled
def _count_words(
    letters: Bytes,
    ends: Int64s,
    num_texts: int,
    pattern: int,
    classes: Bytes,
    slots: Int64s,
    mask: int,
    arena: Bytes,
    arena_size: int,
    progress: Int64s,
) -> int:
    """Count on from where ``progress`` stands; returns 0 at the end, else the bytes the next word needs room for."""
    at = progress[_PLACE]
    for text in range(progress[_TEXT], num_texts):
        end = ends[text]
        while at < end:
            after = word_end(letters, at, end, pattern, classes)
            if _is_full(progress, mask) or progress[_BYTES] + after - at > arena_size:
                progress[_TEXT] = text
                progress[_PLACE] = at
                return after - at
            _add_word(letters, at, after, 1, slots, mask, arena, progress)
            at = after
    return 0


@compiled
def _add_words(
    letters: Bytes,
    ends: Int64s,
    counts: Int64s,
    num_words: int,
    slots: Int64s,
    mask: int,
    arena: Bytes,
    arena_size: int,
    progress: Int64s,
) -> int:
    """Add words with their counts on from where ``progress`` stands; returns as ``_count_words`` does."""
    at = progress[_PLACE]
    for word in range(progress[_TEXT], num_words):
        after = ends[word]
        if _is_full(progress, mask) or progress[_BYTES] + after - at > arena_size:
            progress[_TEXT] = word
            progress[_PLACE] = at
            return after - at
        _add_word(letters, at, after, counts[word], slots, mask, arena, progress)
        at = after
    return 0


@compiled
def _move_words(old: Int64s, num_slots: int, slots: Int64s, mask: int, arena: Bytes) -> int:
    """Enter all words of a table into a larger, empty one."""
    for place in range(num_slots):
        where = old[_SLOT * place + _WHERE]
        if where != 0:
            first = where >> 32
            slot = word_hash(arena, first, first + (where & _LENGTH_MASK)) & mask
            while slots[_SLOT * slot + _WHERE] != 0:
                slot = (slot + 1) & mask
            slots[_SLOT * slot + _WHERE] = where
            slots[_SLOT * slot + _COUNT] = old[_SLOT * place + _COUNT]
    return 0
