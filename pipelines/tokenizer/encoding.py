"""Text to ids, in machine code: words looked up in a cache, new ones merged pair by pair.

The pair of lowest rank is merged first, of several the leftmost, as in Hugging Face's BPE: a heap of
``rank << 32 | place`` holds what may be merged, and entries that other merges have overtaken are skipped.
"""

from __future__ import annotations

import numpy as np

from pipelines.tokenizer.compiled import Bytes, Int32s, Int64s, compiled, inlined, spread
from pipelines.tokenizer.scanner import word_end

NUM_SLOTS = 1 << 18
ARENA_SIZE = 1 << 21
SCRATCH_COLUMNS = 7
# Columns of a cache slot; a length of 0 marks an empty one.
_HASH, _TEXT, _IDS, _LENGTHS = range(4)
SLOT_COLUMNS = 4
# Places in `state`: where the work stands, and how full the cache is.
_AT_TEXT, _AT_BYTE, _NUM_IDS, _USED_SLOTS, _USED_TEXT, _USED_IDS = range(6)
STATE_SIZE = 6
_LONGEST_REMEMBERED = 256
_LOW = 0xFFFFFFFF
_PRIME = 0x100000001B3  # of the FNV hash


@compiled
def encode_texts(
    text: Bytes,
    bounds: Int64s,
    num_texts: int,
    pattern: int,
    classes: Bytes,
    byte_ids: Int32s,
    pairs: Int64s,
    pair_mask: int,
    expansion: Int64s,
    flat: Int32s,
    slots: Int64s,
    cached_text: Bytes,
    cached_ids: Int32s,
    scratch: Int64s,
    scratch_size: int,
    state: Int64s,
    ids: Int32s,
    ends: Int64s,
) -> int:
    """Write the ids of texts one after another, and where each text's ids end.

    Args:
        text: UTF-8 of all texts; text ``i`` is ``bounds[i]:bounds[i + 1]``.
        byte_ids: [256] id of every byte.
        pairs: [pair_mask + 1, 2] table of ``put_pairs``.
        expansion: what id ``i`` becomes in the end: ids of ``flat`` from ``expansion[i] >> 32`` on, as many as the low
            half of ``expansion[i]`` says.
        slots, cached_text, cached_ids: the cache of words: [NUM_SLOTS, SLOT_COLUMNS], [ARENA_SIZE], [ARENA_SIZE].
        scratch: [scratch_size, SCRATCH_COLUMNS] room to merge words of up to ``scratch_size`` bytes.
        state: [STATE_SIZE] zeros at first; the first three are set to zero for every new group of texts.
        ids, ends: [bytes] and [texts] results.

    Returns:
        0, or the bytes of a word too long for ``scratch``: call again with more of it.
    """
    count = state[_NUM_IDS]
    at = state[_AT_BYTE]
    for index in range(state[_AT_TEXT], num_texts):
        stop = bounds[index + 1]
        while at < stop:
            end = word_end(text, at, stop, pattern, classes)
            size = end - at
            hashed = _hash(text, at, end)
            slot = (hashed & (NUM_SLOTS - 1)) * SLOT_COLUMNS
            found = False
            while slots[slot + _LENGTHS] != 0 and not found:
                if slots[slot + _HASH] == hashed and slots[slot + _LENGTHS] >> 32 == size:
                    found = _same(text, at, cached_text, slots[slot + _TEXT], size)
                if not found:
                    slot = (slot + SLOT_COLUMNS) & (NUM_SLOTS * SLOT_COLUMNS - 1)
            if found:
                first = slots[slot + _IDS]
                for place in range(first, first + (slots[slot + _LENGTHS] & _LOW)):
                    ids[count] = cached_ids[place]
                    count += 1
            else:
                if size > scratch_size:
                    state[_AT_TEXT], state[_AT_BYTE], state[_NUM_IDS] = index, at, count
                    return size
                before = count
                count = _merge(text, at, size, byte_ids, pairs, pair_mask, expansion, flat, scratch, ids, count)
                if size <= _LONGEST_REMEMBERED:
                    _remember(text, at, size, ids, before, count, slots, slot, hashed, cached_text, cached_ids, state)
            at = end
        ends[index] = count
    return 0


@compiled
def put_pairs(merges: Int64s, num_merges: int, pairs: Int64s, pair_mask: int) -> int:
    """Fill the table of pairs: ``left << 32 | right`` beside ``rank << 32 | result``; empty slots hold -1.

    Args:
        merges: [num_merges, 3] left, right, result, in order of rank.
    """
    for rank in range(num_merges):
        left, right, result = merges[3 * rank], merges[3 * rank + 1], merges[3 * rank + 2]
        slot = _pair_slot(left, right, pairs, pair_mask)
        # A pair listed twice keeps its first rank.
        if pairs[slot] < 0:
            pairs[slot] = left << 32 | right
            pairs[slot + 1] = rank << 32 | result
    return 0


@inlined
def _hash(text: Bytes, at: int, end: int) -> int:
    # Unsigned, since signed numbers must not overflow in machine code.
    hashed = np.uint64(end - at)
    for place in range(at, end):
        hashed = (hashed ^ np.uint64(text[place])) * np.uint64(_PRIME)
    return int(spread(int(np.int64(hashed))))


@inlined
def _same(text: Bytes, at: int, other: Bytes, place: int, size: int) -> bool:
    offset = 0
    while offset < size and text[at + offset] == other[place + offset]:
        offset += 1
    return offset == size


@inlined
def _remember(
    text: Bytes,
    at: int,
    size: int,
    ids: Int32s,
    before: int,
    count: int,
    slots: Int64s,
    slot: int,
    hashed: int,
    cached_text: Bytes,
    cached_ids: Int32s,
    state: Int64s,
) -> int:
    """Put a word and its ids into an empty slot; a full cache is emptied instead. Returns how many it holds."""
    if state[_USED_SLOTS] >= NUM_SLOTS // 2 or state[_USED_TEXT] + size > ARENA_SIZE:
        # Forgetting everything bounds the memory, and what is frequent is soon back.
        for place in range(NUM_SLOTS):
            slots[place * SLOT_COLUMNS + _LENGTHS] = 0
        state[_USED_SLOTS] = state[_USED_TEXT] = state[_USED_IDS] = 0
        return 0
    slots[slot + _HASH] = hashed
    slots[slot + _TEXT] = state[_USED_TEXT]
    slots[slot + _IDS] = state[_USED_IDS]
    slots[slot + _LENGTHS] = size << 32 | (count - before)
    for place in range(size):
        cached_text[state[_USED_TEXT] + place] = text[at + place]
    for place in range(count - before):
        cached_ids[state[_USED_IDS] + place] = ids[before + place]
    state[_USED_SLOTS] += 1
    state[_USED_TEXT] += size
    state[_USED_IDS] += count - before
    return int(state[_USED_SLOTS])


@inlined
def _pair_slot(left: int, right: int, pairs: Int64s, pair_mask: int) -> int:
    """Where a pair is, or the empty slot where it would be."""
    key = left << 32 | right
    slot = int(spread(key)) & pair_mask
    while pairs[2 * slot] != key and pairs[2 * slot] >= 0:
        slot = (slot + 1) & pair_mask
    return 2 * slot


@inlined
def _merge(
    text: Bytes,
    at: int,
    size: int,
    byte_ids: Int32s,
    pairs: Int64s,
    pair_mask: int,
    expansion: Int64s,
    flat: Int32s,
    scratch: Int64s,
    ids: Int32s,
    count: int,
) -> int:
    """Write the ids of a word behind the first ``count``; returns the new count."""
    # Columns of the scratch: id at each place, the next and previous place still there, what the pair that begins here
    # merges into (-1: nothing), and the heap. Each merge adds two pairs at most, and there are fewer merges than bytes.
    after, before, merge, heap = size, 2 * size, 3 * size, 4 * size
    num_heap = 0
    for place in range(size):
        scratch[place] = byte_ids[text[at + place]]
        scratch[after + place] = place + 1
        scratch[before + place] = place - 1
        scratch[merge + place] = -1
    for place in range(size - 1):
        num_heap = _propose(place, place + 1, scratch, merge, heap, num_heap, pairs, pair_mask)
    while num_heap:
        top = scratch[heap]
        num_heap -= 1
        _sink(scratch, heap, scratch[heap + num_heap], num_heap)
        place = top & _LOW
        made = scratch[merge + place]
        if made < 0 or made >> 32 != top >> 32:
            continue
        gone = scratch[after + place]
        right = scratch[after + gone]
        left = scratch[before + place]
        scratch[place] = made & _LOW
        scratch[merge + place] = scratch[merge + gone] = -1
        scratch[after + place] = right
        if right < size:
            scratch[before + right] = place
            num_heap = _propose(place, right, scratch, merge, heap, num_heap, pairs, pair_mask)
        if left >= 0:
            num_heap = _propose(left, place, scratch, merge, heap, num_heap, pairs, pair_mask)
    place = 0
    while place < size:
        parts = expansion[scratch[place]]
        for part in range(parts >> 32, (parts >> 32) + (parts & _LOW)):
            ids[count] = flat[part]
            count += 1
        place = scratch[after + place]
    return count


@inlined
def _propose(
    place: int, right: int, scratch: Int64s, merge: int, heap: int, num_heap: int, pairs: Int64s, pair_mask: int
) -> int:
    """Put the pair at a place into the heap if it merges; returns the heap's new size."""
    slot = _pair_slot(scratch[place], scratch[right], pairs, pair_mask)
    if pairs[slot] < 0:
        scratch[merge + place] = -1
        return num_heap
    made = pairs[slot + 1]
    scratch[merge + place] = made
    key = (made >> 32) << 32 | place
    child = num_heap
    while child and scratch[heap + ((child - 1) >> 1)] > key:
        scratch[heap + child] = scratch[heap + ((child - 1) >> 1)]
        child = (child - 1) >> 1
    scratch[heap + child] = key
    return num_heap + 1


@inlined
def _sink(scratch: Int64s, heap: int, key: int, size: int) -> int:
    """Put a key in the place of the heap's top and let it sink; returns where it comes to rest."""
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and scratch[heap + child + 1] < scratch[heap + child]:
            child += 1
        if scratch[heap + child] >= key:
            break
        scratch[heap + place] = scratch[heap + child]
        place = child
    scratch[heap + place] = key
    return place
