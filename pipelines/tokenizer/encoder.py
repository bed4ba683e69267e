"""Encoding batches of texts: the ids `tokenizers` gives, several times faster, from threads that run side by side.

Most words of a text have occurred before, so their ids are looked up (``pipelines.tokenizer.encoding``). Scaffolds are
taken apart before a word's ids are remembered, so they cost nothing afterwards.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines.tokenizer import encoding
from pipelines.tokenizer.character_classes import class_table
from pipelines.tokenizer.patterns import pattern_of
from pipelines.tokenizer.protocol import symbol_of_byte
from pipelines.tokenizer.scanner import CODE_OF_PATTERN

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from pipelines.tokenizer.compiled import Bytes, Int32s, Int64s
    from pipelines.tokenizer.expansion import ExpansionTable

# UTF-8 bytes a task: small enough to share among threads, large enough to hide what starting one costs.
TASK_BYTES = 1 << 18


class Vocabulary(NamedTuple):
    """A byte-level BPE vocabulary as ``encoding.encode_texts`` reads it; shapes are told there."""

    byte_ids: Int32s
    pairs: Int64s
    expansion: Int64s
    flat: Int32s


class _Workspace:
    """What one thread at a time needs: a cache of words, about 20 MB, and room to merge long ones."""

    def __init__(self) -> None:
        self.slots = np.zeros(encoding.NUM_SLOTS * encoding.SLOT_COLUMNS, dtype=np.int64)
        self.cached_text = np.empty(encoding.ARENA_SIZE, dtype=np.uint8)
        self.cached_ids = np.empty(encoding.ARENA_SIZE, dtype=np.int32)
        self.state = np.zeros(encoding.STATE_SIZE, dtype=np.int64)
        self.make_room(1 << 10)

    def make_room(self, size: int) -> None:
        self.scratch_size = size
        self.scratch = np.empty(size * encoding.SCRATCH_COLUMNS, dtype=np.int64)


class CompiledEncoder:
    """Texts to ids, for a byte-level BPE with one of our patterns and no text that is special.

    Attributes:
        vocabulary: what it merges and makes of it.
    """

    def __init__(self, vocabulary: Vocabulary, pattern: str) -> None:
        self.vocabulary = vocabulary
        self._pattern = CODE_OF_PATTERN[pattern]
        self._workspaces: list[_Workspace] = []

    def encode_batch(self, texts: Iterable[str], num_threads: int | None = None) -> list[NDArray[np.int32]]:
        """Ids of every text, int32 [length] each."""
        return list(self.encode_each(texts, num_threads))

    def encode_each(self, texts: Iterable[str], num_threads: int | None = None) -> Iterator[NDArray[np.int32]]:
        """Ids of one text after another, int32 [length], while the next ones are read and encoded.

        The ids are the same for any number of threads (default: one a core), and so is the memory for any number of
        texts.

        Raises:
            UnicodeEncodeError: a text holds half of a surrogate pair, which is no character.
        """
        threads = num_threads or len(os.sched_getaffinity(0))
        waiting: deque[Future[list[NDArray[np.int32]]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for text, bounds in _tasks(texts):
                waiting.append(pool.submit(self._encode, text, bounds))
                if len(waiting) > 2 * threads:
                    yield from waiting.popleft().result()
            for each in waiting:
                yield from each.result()

    def _encode(self, text: Bytes, bounds: Int64s) -> list[NDArray[np.int32]]:
        # Taking from a list and adding to it is safe between threads.
        own = self._workspaces.pop() if self._workspaces else _Workspace()
        ids = np.empty(len(text), dtype=np.int32)
        ends = np.empty(len(bounds) - 1, dtype=np.int64)
        own.state[:3] = 0
        vocabulary = self.vocabulary
        while needed := encoding.encode_texts(
            text,
            bounds,
            len(ends),
            self._pattern,
            class_table(),
            vocabulary.byte_ids,
            vocabulary.pairs,
            len(vocabulary.pairs) // 2 - 1,
            vocabulary.expansion,
            vocabulary.flat,
            own.slots,
            own.cached_text,
            own.cached_ids,
            own.scratch,
            own.scratch_size,
            own.state,
            ids,
            ends,
        ):
            own.make_room(needed)
        if own.scratch_size > TASK_BYTES:
            own.make_room(1 << 10)
        self._workspaces.append(own)
        # Without the room for ids that were not needed.
        return np.split(ids[: ends[-1]].copy(), ends[:-1])


def compiled_encoder(tokenizer: Tokenizer, table: ExpansionTable | None) -> CompiledEncoder | None:
    """The compiled encoder of a tokenizer whose special tokens are text; None if it is of another kind.

    Args:
        table: what its scaffolds become; without one, ids are given as merged.
    """
    description = json.loads(tokenizer.to_str())
    model = description["model"]
    pattern = pattern_of(tokenizer)
    unusual = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model["type"] != "BPE" or any(model[name] for name in unusual) or pattern is None:
        return None
    if description["normalizer"] is not None or any(not token["special"] for token in description["added_tokens"]):
        return None
    ids: dict[str, int] = model["vocab"]
    symbols = symbol_of_byte()
    if any(symbol not in ids for symbol in symbols.values()):
        return None
    byte_ids = np.array([ids[symbols[byte]] for byte in range(256)], dtype=np.int32)
    merges = np.array([(ids[a], ids[b], ids[a + b]) for a, b in model["merges"]], dtype=np.int64).ravel()
    if table is None:
        flat = np.arange(max(ids.values()) + 1, dtype=np.int32)
        expansion = flat.astype(np.int64) << 32 | 1
    else:
        flat, expansion = table.flat, table.starts << 32 | table.lengths
    return CompiledEncoder(Vocabulary(byte_ids, pair_table(merges), expansion, flat), pattern)


def pair_table(merges: Int64s) -> Int64s:
    """Table of ``encoding.put_pairs``, half full at most, from merges [number, 3] laid out flat."""
    slots = 1 << max(4, (2 * len(merges) // 3).bit_length())
    pairs = np.full(2 * slots, -1, dtype=np.int64)
    encoding.put_pairs(merges, len(merges) // 3, pairs, slots - 1)
    return pairs


def _tasks(texts: Iterable[str]) -> Iterator[tuple[Bytes, Int64s]]:
    """Texts in groups of about ``TASK_BYTES``: their UTF-8 [bytes], and its bounds [texts + 1]."""
    group: list[bytes] = []
    bounds = [0]
    for text in texts:
        group.append(text.encode())
        bounds.append(bounds[-1] + len(group[-1]))
        if bounds[-1] >= TASK_BYTES:
            yield np.frombuffer(b"".join(group), np.uint8), np.array(bounds, dtype=np.int64)
            group, bounds = [], [0]
    if group:
        yield np.frombuffer(b"".join(group), np.uint8), np.array(bounds, dtype=np.int64)
