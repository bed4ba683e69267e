"""Machine code: the positions of a corpus, and merging a pair everywhere at a cost of only the places that change.

A *position* is a byte of a word. A token lies from its first position to its last, so its neighbours are found without
links: the next token starts where it ends; the position before holds a token of one byte, or says where a longer one
starts. Every pair of neighbours belongs to the list of its kind, doubly linked through the position of its left token,
so counts and lists are exact at every moment.
"""

from __future__ import annotations

from pipelines.tokenizer.compiled import Bytes, Int32s, Int64s, compiled, inlined
from pipelines.tokenizer.pair_queue import (
    COUNT,
    EMPTY,
    ENTRY,
    FIRST,
    HEAP,
    KEY,
    USED,
    WAITING,
    enter_waiting,
    slot_of,
)

# A position: the token that starts here (a longer token's last position: -2 - its start; between words: _BORDER), the
# word, and the neighbours in the list of the pair that starts here.
_SYMBOL, _WORD, _NEXT, _PREVIOUS, POSITION = range(5)
_BORDER = -1
# Where tokens can be split: neighbours in the list of all places of a token.
_LATER, _EARLIER, PLACE = range(3)


@inlined
def start_before(positions: Int32s, at: int) -> int:
    """Where the token before this one starts; -1 at the start of a word."""
    mark = positions[POSITION * (at - 1) + _SYMBOL]
    if mark >= 0:
        return at - 1
    return -1 if mark == _BORDER else -2 - mark


@inlined
def unlink(positions: Int32s, pairs: Int64s, mask: int, at: int, key: int, weight: int) -> None:
    """Take a place of a pair out of its list and its count."""
    slot = slot_of(pairs, mask, key)
    pairs[slot + COUNT] -= weight
    following = positions[POSITION * at + _NEXT]
    previous = positions[POSITION * at + _PREVIOUS]
    if previous >= 0:
        positions[POSITION * previous + _NEXT] = following
    else:
        pairs[slot + FIRST] = 2 * following | (pairs[slot + FIRST] & 1)
    if following >= 0:
        positions[POSITION * following + _PREVIOUS] = previous


@inlined
def link(
    positions: Int32s, pairs: Int64s, mask: int, heap: Int64s, sizes: Int64s, at: int, key: int, weight: int
) -> None:
    """Add a place of a pair to its list and its count, and let the pair wait for the queue."""
    slot = slot_of(pairs, mask, key)
    if pairs[slot + KEY] == EMPTY:
        pairs[slot + KEY] = key
        pairs[slot + FIRST] = -2
        sizes[USED] += 1
    pairs[slot + COUNT] += weight
    following = pairs[slot + FIRST] >> 1
    if pairs[slot + FIRST] & 1 == 0:
        heap[ENTRY * (sizes[HEAP] + sizes[WAITING])] = slot
        sizes[WAITING] += 1
    pairs[slot + FIRST] = 2 * at | 1
    positions[POSITION * at + _NEXT] = following
    positions[POSITION * at + _PREVIOUS] = -1
    if following >= 0:
        positions[POSITION * following + _PREVIOUS] = at


@inlined
def leave(places: Int32s, first_places: Int32s, at: int, token: int) -> None:
    """Take a place out of the list of a token."""
    later = places[PLACE * at + _LATER]
    earlier = places[PLACE * at + _EARLIER]
    if earlier >= 0:
        places[PLACE * earlier + _LATER] = later
    else:
        first_places[token] = later
    if later >= 0:
        places[PLACE * later + _EARLIER] = earlier


@inlined
def join(places: Int32s, first_places: Int32s, at: int, token: int) -> None:
    """Add a place to the list of a token."""
    later = first_places[token]
    places[PLACE * at + _LATER] = later
    places[PLACE * at + _EARLIER] = -1
    if later >= 0:
        places[PLACE * later + _EARLIER] = at
    first_places[token] = at


@inlined
def replace(
    positions: Int32s,
    weights: Int64s,
    pairs: Int64s,
    mask: int,
    heap: Int64s,
    sizes: Int64s,
    at: int,
    left: int,
    right: int,
    token: int,
    left_size: int,
    right_size: int,
) -> int:
    """Merge the pair at one place; returns how often its word occurs."""
    middle = at + left_size
    end = middle + right_size
    weight = weights[positions[POSITION * at + _WORD]]
    before = start_before(positions, at)
    after = positions[POSITION * end + _SYMBOL]
    unlink(positions, pairs, mask, at, left << 32 | right, weight)
    if after >= 0:
        unlink(positions, pairs, mask, middle, right << 32 | after, weight)
        link(positions, pairs, mask, heap, sizes, at, token << 32 | after, weight)
    positions[POSITION * at + _SYMBOL] = token
    positions[POSITION * (end - 1) + _SYMBOL] = -2 - at
    if before >= 0:
        neighbour = positions[POSITION * before + _SYMBOL] << 32
        unlink(positions, pairs, mask, before, neighbour | left, weight)
        link(positions, pairs, mask, heap, sizes, before, neighbour | token, weight)
    return weight


@compiled
def merge(
    positions: Int32s,
    weights: Int64s,
    pairs: Int64s,
    mask: int,
    heap: Int64s,
    sizes: Int64s,
    places: Int32s,
    first_places: Int32s,
    left: int,
    right: int,
    token: int,
    left_size: int,
    right_size: int,
    splits: int,
) -> int:
    """Replace a pair by a token in every word, from left to right; returns how often."""
    slot = slot_of(pairs, mask, left << 32 | right)
    replaced = 0
    while pairs[slot + FIRST] >> 1 >= 0:
        at = pairs[slot + FIRST] >> 1
        if left == right:
            # Which of overlapping pairs merge is decided from the start of the run.
            before = start_before(positions, at)
            while before >= 0 and positions[POSITION * before + _SYMBOL] == left:
                at = before
                before = start_before(positions, at)
        while positions[POSITION * at + _SYMBOL] == left and positions[POSITION * (at + left_size) + _SYMBOL] == right:
            replaced += replace(
                positions, weights, pairs, mask, heap, sizes, at, left, right, token, left_size, right_size
            )
            if splits:
                leave(places, first_places, at, left)
                leave(places, first_places, at + left_size, right)
                join(places, first_places, at, token)
            at += left_size + right_size
    enter_waiting(pairs, mask, heap, sizes)
    return replaced


@compiled
def split(
    positions: Int32s,
    weights: Int64s,
    pairs: Int64s,
    mask: int,
    heap: Int64s,
    sizes: Int64s,
    places: Int32s,
    first_places: Int32s,
    token: int,
    parts: Int32s,
    part_sizes: Int32s,
    num_parts: int,
) -> int:
    """Replace a token by its parts in every word."""
    while first_places[token] >= 0:
        at = first_places[token]
        weight = weights[positions[POSITION * at + _WORD]]
        leave(places, first_places, at, token)
        before = start_before(positions, at)
        if before >= 0:
            neighbour = positions[POSITION * before + _SYMBOL] << 32
            unlink(positions, pairs, mask, before, neighbour | token, weight)
            link(positions, pairs, mask, heap, sizes, before, neighbour | parts[0], weight)
        end = at
        for part in range(num_parts):
            end += part_sizes[part]
        after = positions[POSITION * end + _SYMBOL]
        if after >= 0:
            unlink(positions, pairs, mask, at, token << 32 | after, weight)
        for part in range(num_parts):
            size = part_sizes[part]
            positions[POSITION * at + _SYMBOL] = parts[part]
            if size > 1:
                positions[POSITION * (at + size - 1) + _SYMBOL] = -2 - at
            join(places, first_places, at, parts[part])
            following = parts[part + 1] if part + 1 < num_parts else after
            if following >= 0:
                link(positions, pairs, mask, heap, sizes, at, parts[part] << 32 | following, weight)
            at += size
    enter_waiting(pairs, mask, heap, sizes)
    return 0


@compiled
def lay_out(
    letters: Bytes, ends: Int64s, weights: Int64s, num_words: int, ids: Int32s, positions: Int32s, counts: Int64s
) -> int:
    """Write words, byte by byte, into positions, and count their bytes."""
    letter = 0
    at = 0
    positions[_SYMBOL] = _BORDER
    for word in range(num_words):
        at += 1
        while letter < ends[word]:
            positions[POSITION * at + _SYMBOL] = ids[letters[letter]]
            positions[POSITION * at + _WORD] = word
            counts[letters[letter]] += weights[word]
            letter += 1
            at += 1
        positions[POSITION * at + _SYMBOL] = _BORDER
    return 0


@compiled
def link_all(
    positions: Int32s,
    num_positions: int,
    weights: Int64s,
    pairs: Int64s,
    mask: int,
    heap: Int64s,
    sizes: Int64s,
    places: Int32s,
    first_places: Int32s,
    splits: int,
) -> int:
    """Enter all pairs of single bytes; backwards, so that each list runs forward through the words."""
    for at in range(num_positions - 2, 0, -1):
        symbol = positions[POSITION * at + _SYMBOL]
        after = positions[POSITION * (at + 1) + _SYMBOL]
        if symbol >= 0 and splits:
            join(places, first_places, at, symbol)
        if symbol >= 0 and after >= 0:
            weight = weights[positions[POSITION * at + _WORD]]
            link(positions, pairs, mask, heap, sizes, at, symbol << 32 | after, weight)
    enter_waiting(pairs, mask, heap, sizes)
    return 0
