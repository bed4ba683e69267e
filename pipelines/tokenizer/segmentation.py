"""The words of a corpus as tokens, while pairs of them merge: what BPE and its relatives have in common.

`Segmentation` is used from Python, one call a merge; `merging` and `pair_queue` hold the machine code, and say how the
arrays lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer import merging, pair_queue
from pipelines.tokenizer.words import Words


class Segmentation:
    """Words over tokens, the count of every token, and the most frequent pair of neighbours in a word.

    Of pairs of equal count the one with the smaller ids comes first: left, then right.

    Attributes:
        counts: occurrences of every token.
    """

    def __init__(self, words: Words, alphabet: Sequence[bytes], *, splits: bool = False) -> None:
        """Lay words out over single bytes.

        Args:
            alphabet: tokens by id; words are made of those of one byte.
            splits: whether tokens will be split again, for which their places are kept.

        Raises:
            RetraceError: more than 2 GB of distinct words.
        """
        size = len(words.letters) + len(words.counts) + 1
        if size >= 2**31:
            raise RetraceError(f"the distinct words hold {size:,} bytes, more than 2^31: train on a part of the text")
        ids = np.full(256, -1, dtype=np.int32)
        for place, token in enumerate(alphabet):
            if len(token) == 1:
                ids[token[0]] = place
        self._weights = words.counts
        self._positions = np.empty(merging.POSITION * size, dtype=np.int32)
        self._sizes = np.zeros(pair_queue.NUM_SIZES, dtype=np.int64)
        byte_counts = np.zeros(256, dtype=np.int64)
        merging.lay_out(words.letters, words.ends, words.counts, len(words.counts), ids, self._positions, byte_counts)
        strange = bytes(np.flatnonzero((byte_counts > 0) & (ids < 0)).tolist())
        if strange:
            raise ValueError(f"the words hold bytes that are not in the alphabet: {strange!r}")
        self._lengths = [len(token) for token in alphabet]
        self.counts = [int(byte_counts[token[0]]) if len(token) == 1 else 0 for token in alphabet]
        self._splits = splits
        self._places = np.empty(merging.PLACE * size if splits else 0, dtype=np.int32)
        self._first_places = np.full(2 * len(alphabet) if splits else 0, -1, dtype=np.int32)
        bound = min(size, 1 << 16)
        self._make_table(bound)
        self._heap = np.empty(pair_queue.ENTRY * bound, dtype=np.int64)
        self._take_addresses()
        positions, weights, pairs, *rest = self._addresses
        merging.link_all.native(positions, size, weights, pairs, *rest, splits)

    def head(self) -> tuple[int, int, int] | None:
        """(count, left, right) of the most frequent pair; None when no word has two tokens."""
        if not self._sizes.item(pair_queue.HEAP):
            return None
        key = self._heap.item(1)
        return self._heap.item(0), key >> 32, key & 0xFFFFFFFF

    def pass_over(self) -> None:
        """Take the head out of the queue; it comes back only if it becomes more frequent."""
        pair_queue.drop_head(self._pairs, self._num_slots - 1, self._heap, self._sizes)

    def merge(self, left: int, right: int, token: int) -> None:
        """Replace a pair by a token in every word, from left to right.

        Args:
            token: its id; one more than the last for a new token.
        """
        if token == len(self._lengths):
            self._lengths.append(self._lengths[left] + self._lengths[right])
            self.counts.append(0)
        # A pair beside the new token for each token on either side, and no more than there are places.
        bound = min(self.counts[left], self.counts[right], len(self._lengths))
        self._make_room(2 * bound)
        sizes = self._lengths[left], self._lengths[right]
        replaced = self._merge(*self._addresses, left, right, token, *sizes, self._splits)
        self.counts[left] -= replaced
        self.counts[right] -= replaced
        self.counts[token] += replaced

    def split(self, token: int, parts: Sequence[int]) -> None:
        """Replace a token in every word by the tokens it is made of."""
        count = self.counts[token]
        self._make_room(2 * min(count, len(self._lengths)) + len(parts))
        sizes = np.array([self._lengths[part] for part in parts], dtype=np.int32)
        ids = np.array(parts, dtype=np.int32)
        merging.split.native(*self._addresses, token, ids.ctypes.data, sizes.ctypes.data, len(parts))
        self.counts[token] = 0
        for part in parts:
            self.counts[part] += count

    def _make_room(self, num_pairs: int) -> None:
        """Room in table and queue for so many pairs more, and for the places of the last token."""
        if self._sizes.item(pair_queue.USED) + num_pairs > 5 * self._num_slots // 8:
            old, num_slots = self._pairs, self._num_slots
            self._make_table(self._num_live() + num_pairs)
            pair_queue.move_pairs(old, num_slots, self._pairs, self._num_slots - 1, self._sizes)
            self._take_addresses()
        if pair_queue.ENTRY * (self._sizes.item(pair_queue.HEAP) + num_pairs) > len(self._heap):
            # Without the entries that are out of date there may be room enough.
            needed = self._num_live() + num_pairs
            if 2 * pair_queue.ENTRY * needed > len(self._heap):
                self._heap = np.empty(3 * pair_queue.ENTRY * needed, dtype=np.int64)
            pair_queue.fill_heap(self._pairs, self._num_slots, self._heap, self._sizes)
            self._take_addresses()
        if self._splits and len(self._lengths) > len(self._first_places):
            self._first_places = np.concatenate([self._first_places, np.full_like(self._first_places, -1)])
            self._take_addresses()

    def _make_table(self, num_pairs: int) -> None:
        """An empty table, less than half full with so many pairs."""
        table = np.zeros((1 << (2 * num_pairs).bit_length(), pair_queue.PAIR), dtype=np.int64)
        table[:, pair_queue.KEY] = pair_queue.EMPTY
        self._num_slots = len(table)
        self._pairs = table.reshape(-1)
        self._sizes[pair_queue.USED] = 0

    def _num_live(self) -> int:
        return int(np.count_nonzero(self._pairs[pair_queue.COUNT :: pair_queue.PAIR]))

    def _take_addresses(self) -> None:
        """A call with addresses is several times quicker than one with arrays, and there is one a merge."""
        arrays = (self._heap, self._sizes, self._places, self._first_places)
        positions, weights, pairs = (each.ctypes.data for each in (self._positions, self._weights, self._pairs))
        self._addresses = (positions, weights, pairs, self._num_slots - 1, *(each.ctypes.data for each in arrays))
        self._merge = merging.merge.native
