"""Machine code: the table of pairs of tokens, and the queue of the most frequent.

The queue is a heap of (count, pair); a pair that became more frequent is entered again, one that became rarer is put
right when it comes to the top. At equal counts the pair of smaller ids comes first.
"""

from __future__ import annotations

from pipelines.tokenizer.compiled import Int64s, compiled, inlined, spread

# A slot of the table: left << 32 | right, occurrences, and twice the first position of the pair's list (-1: none), plus
# one while the pair waits to be entered in the queue.
KEY, COUNT, FIRST, PAIR = range(4)
EMPTY = -1
# An entry of the queue.
PRIORITY, ENTERED, ENTRY = range(3)
# Numbers that change: slots in use, entries of the queue, pairs that wait behind them to be entered.
USED, HEAP, WAITING, NUM_SIZES = range(4)


@inlined
def slot_of(pairs: Int64s, mask: int, key: int) -> int:
    """Where a pair's slot begins, or that of the empty slot where it belongs."""
    slot = spread(key) & mask
    while pairs[PAIR * slot + KEY] != key and pairs[PAIR * slot + KEY] != EMPTY:
        slot = (slot + 1) & mask
    return PAIR * slot


@inlined
def comes_before(count: int, key: int, other_count: int, other_key: int) -> bool:
    """Order of the queue: frequent pairs first, of equals those of smaller ids."""
    return count > other_count or (count == other_count and key < other_key)


@inlined
def sift_up(heap: Int64s, at: int, count: int, key: int) -> None:
    """Enter a pair in the queue from a free place at its end."""
    while at > 0:
        parent = (at - 1) >> 1
        if not comes_before(count, key, heap[ENTRY * parent], heap[ENTRY * parent + ENTERED]):
            break
        heap[ENTRY * at] = heap[ENTRY * parent]
        heap[ENTRY * at + ENTERED] = heap[ENTRY * parent + ENTERED]
        at = parent
    heap[ENTRY * at] = count
    heap[ENTRY * at + ENTERED] = key


@inlined
def sift_down(heap: Int64s, size: int, at: int, count: int, key: int) -> None:
    """Put a pair in a place of the queue and let it sink."""
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and comes_before(
            heap[ENTRY * (child + 1)],
            heap[ENTRY * (child + 1) + ENTERED],
            heap[ENTRY * child],
            heap[ENTRY * child + ENTERED],
        ):
            child += 1
        if not comes_before(heap[ENTRY * child], heap[ENTRY * child + ENTERED], count, key):
            break
        heap[ENTRY * at] = heap[ENTRY * child]
        heap[ENTRY * at + ENTERED] = heap[ENTRY * child + ENTERED]
        at = child
    heap[ENTRY * at] = count
    heap[ENTRY * at + ENTERED] = key


@inlined
def pop(heap: Int64s, sizes: Int64s) -> None:
    """Take the top out of the queue."""
    sizes[HEAP] -= 1
    last = ENTRY * sizes[HEAP]
    if last:
        sift_down(heap, sizes[HEAP], 0, heap[last], heap[last + ENTERED])


@inlined
def settle(pairs: Int64s, mask: int, heap: Int64s, sizes: Int64s) -> None:
    """Put entries right until the top is one whose count holds."""
    while sizes[HEAP]:
        key = heap[ENTERED]
        count = pairs[slot_of(pairs, mask, key) + COUNT]
        if count == heap[PRIORITY]:
            break
        if 0 < count < heap[PRIORITY]:
            sift_down(heap, sizes[HEAP], 0, count, key)
        else:
            # Gone, or more frequent by now: then it was entered again.
            pop(heap, sizes)


@inlined
def enter_waiting(pairs: Int64s, mask: int, heap: Int64s, sizes: Int64s) -> None:
    """Enter the pairs that a change made more frequent."""
    first = sizes[HEAP]
    for entry in range(first, first + sizes[WAITING]):
        slot = heap[ENTRY * entry]
        pairs[slot + FIRST] &= ~1
        if pairs[slot + COUNT] > 0:
            sift_up(heap, sizes[HEAP], pairs[slot + COUNT], pairs[slot + KEY])
            sizes[HEAP] += 1
    sizes[WAITING] = 0
    settle(pairs, mask, heap, sizes)


@compiled
def drop_head(pairs: Int64s, mask: int, heap: Int64s, sizes: Int64s) -> int:
    """Take the top out of the queue."""
    pop(heap, sizes)
    settle(pairs, mask, heap, sizes)
    return 0


@compiled
def fill_heap(pairs: Int64s, num_slots: int, heap: Int64s, sizes: Int64s) -> int:
    """Make the queue anew from the table."""
    size = 0
    for place in range(num_slots):
        slot = PAIR * place
        if pairs[slot + COUNT] > 0:
            heap[ENTRY * size] = pairs[slot + COUNT]
            heap[ENTRY * size + ENTERED] = pairs[slot + KEY]
            size += 1
    sizes[HEAP] = size
    for at in range(size // 2 - 1, -1, -1):
        sift_down(heap, size, at, heap[ENTRY * at], heap[ENTRY * at + ENTERED])
    return 0


@compiled
def move_pairs(old: Int64s, num_slots: int, pairs: Int64s, mask: int, sizes: Int64s) -> int:
    """Enter the pairs that still occur into another, empty table."""
    for place in range(num_slots):
        source = PAIR * place
        if old[source + COUNT] > 0:
            slot = slot_of(pairs, mask, old[source + KEY])
            for column in range(PAIR):
                pairs[slot + column] = old[source + column]
            sizes[USED] += 1
    return 0
