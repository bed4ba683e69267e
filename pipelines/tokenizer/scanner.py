"""Splitting UTF-8 text into words, compiled: the patterns of `pipelines.tokenizer.patterns` without a regex engine.

Equal to `tokenizers`' own splitting, character classes included, since these are asked of the installed library.
Everything compiled here releases the interpreter's lock, so threads really run side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])

CODE_OF_PATTERN = {"gpt2": 0, "llama3": 1, "whitespace": 2, "none": 3}
_GPT2, _LLAMA3, _WHITESPACE, _NONE = CODE_OF_PATTERN.values()
_OTHER, _LETTER, _NUMBER, _SPACE = range(4)
_BLOCK = 256
_NUM_CODE_POINTS = 0x110000


def compiled(function: Function) -> Function:
    """Compile at the first call, release the interpreter's lock, and keep the machine code on disk."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


class CharacterClasses:
    """Letter, number, white space or other, of every code point, as the installed `tokenizers` sees it.

    The library is asked about 256 code points at a time, and only about those that occur: all would take seconds.

    Attributes:
        table: [0x110000] uint8 class of each code point; right for the texts covered so far.
    """

    def __init__(self) -> None:
        self.table: NDArray[np.uint8] = np.zeros(_NUM_CODE_POINTS, dtype=np.uint8)
        self._known = np.zeros(_NUM_CODE_POINTS // _BLOCK, dtype=np.bool_)
        self._ask(0)

    def cover(self, buffer: NDArray[np.uint8]) -> None:
        """Make the table right for every character of a UTF-8 text, [bytes] uint8."""
        seen = np.zeros_like(self._known)
        _mark_blocks(buffer, seen)
        for block in np.flatnonzero(seen & ~self._known).tolist():
            self._ask(block)

    def _ask(self, block: int) -> None:
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import Split

        first = block * _BLOCK
        points = [point for point in range(first, first + _BLOCK) if not 0xD800 <= point < 0xE000]
        text = "".join(map(chr, points))
        for regex, kind in ((r"\p{L}", _LETTER), (r"\p{N}", _NUMBER), (r"\s", _SPACE)):
            kept = Split(Regex(regex), "removed").pre_tokenize_str(text) if text else []
            matches = np.ones(len(points), dtype=np.bool_)
            for _piece, (start, end) in kept:
                matches[start:end] = False
            self.table[np.array(points, dtype=np.int64)[matches]] = kind
        self._known[block] = True


@compiled
def _mark_blocks(buffer: NDArray[np.uint8], seen: NDArray[np.bool_]) -> None:
    place = 0
    while place < len(buffer):
        if buffer[place] < 0x80:
            place += 1
        else:
            point, width = _decode(buffer, place)
            seen[point >> 8] = True
            place += width


@compiled
def _decode(buffer: NDArray[np.uint8], place: int) -> tuple[int, int]:
    """Code point at a place of valid UTF-8, and its bytes."""
    first = int(buffer[place])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (buffer[place + 1] & 0x3F), 2
    if first < 0xF0:
        return (first & 0x0F) << 12 | np.int64(buffer[place + 1] & 0x3F) << 6 | (buffer[place + 2] & 0x3F), 3
    middle = np.int64(buffer[place + 1] & 0x3F) << 12 | np.int64(buffer[place + 2] & 0x3F) << 6
    return (first & 0x07) << 18 | middle | (buffer[place + 3] & 0x3F), 4


@compiled
def word_end(buffer: NDArray[np.uint8], place: int, end: int, pattern: int, classes: NDArray[np.uint8]) -> int:
    """Where the word that begins at ``place`` ends.

    Args:
        buffer: [bytes] uint8 valid UTF-8.
        end: end of the text that ``place`` lies in.
        pattern: of ``CODE_OF_PATTERN``.
        classes: ``CharacterClasses.table``, covering the buffer.
    """
    if pattern == _NONE:
        return end
    point, width = _decode(buffer, place)
    kind = classes[point]
    after = place + width
    if pattern == _WHITESPACE:
        if kind != _SPACE:
            return _run_of_not_space(buffer, after, end, classes)
        if point == 0x20 and after < end and _class_at(buffer, after, classes) != _SPACE:
            return _run_of_not_space(buffer, after, end, classes)
        return _white_space(buffer, place, end, classes, False)
    if point == 0x27:
        contraction = _contraction(buffer, after, end, pattern == _LLAMA3)
        if contraction > after:
            return contraction
    if kind == _LETTER:
        return _run(buffer, after, end, _LETTER, classes)
    if kind == _NUMBER:
        return _run(buffer, after, end, _NUMBER, classes) if pattern == _GPT2 else _three(buffer, place, end, classes)
    next_kind = _class_at(buffer, after, classes) if after < end else _SPACE
    if pattern == _LLAMA3:
        newline = point == 0x0A or point == 0x0D
        if not newline and next_kind == _LETTER:
            return _run(buffer, after, end, _LETTER, classes)
        if kind == _OTHER or (point == 0x20 and next_kind == _OTHER):
            return _run_of_newlines(buffer, _run(buffer, after, end, _OTHER, classes), end)
    elif kind == _OTHER or (point == 0x20 and next_kind != _SPACE):
        return _run(buffer, after, end, next_kind if kind == _SPACE else kind, classes)
    return _white_space(buffer, place, end, classes, pattern == _LLAMA3)


@compiled
def _class_at(buffer: NDArray[np.uint8], place: int, classes: NDArray[np.uint8]) -> int:
    first = buffer[place]
    return classes[first] if first < 0x80 else classes[_decode(buffer, place)[0]]


@compiled
def _run(buffer: NDArray[np.uint8], place: int, end: int, kind: int, classes: NDArray[np.uint8]) -> int:
    """End of the characters of one class from here."""
    while place < end:
        first = buffer[place]
        if first < 0x80:
            if classes[first] != kind:
                break
            place += 1
        else:
            point, width = _decode(buffer, place)
            if classes[point] != kind:
                break
            place += width
    return place


@compiled
def _run_of_not_space(buffer: NDArray[np.uint8], place: int, end: int, classes: NDArray[np.uint8]) -> int:
    while place < end:
        point, width = _decode(buffer, place)
        if classes[point] == _SPACE:
            break
        place += width
    return place


@compiled
def _run_of_newlines(buffer: NDArray[np.uint8], place: int, end: int) -> int:
    while place < end and (buffer[place] == 0x0A or buffer[place] == 0x0D):
        place += 1
    return place


@compiled
def _three(buffer: NDArray[np.uint8], place: int, end: int, classes: NDArray[np.uint8]) -> int:
    """End of at most three numerals."""
    for _ in range(3):
        if place == end:
            break
        point, width = _decode(buffer, place)
        if classes[point] != _NUMBER:
            break
        place += width
    return place


@compiled
def _white_space(
    buffer: NDArray[np.uint8], place: int, end: int, classes: NDArray[np.uint8], newlines_end: bool
) -> int:
    r"""``\s*[\r\n]+`` where newlines end a word, then ``\s+(?!\S)|\s+``: all but the last character before a word."""
    start = last = place
    newline = -1
    while place < end:
        point, width = _decode(buffer, place)
        if classes[point] != _SPACE:
            break
        last = place
        place += width
        if point == 0x0A or point == 0x0D:
            newline = place
    if newlines_end and newline >= 0:
        return newline
    return place if place == end or last == start else last


@compiled
def _contraction(buffer: NDArray[np.uint8], place: int, end: int, any_case: bool) -> int:
    """End of s, t, re, ve, m, ll or d from here, behind an apostrophe; ``place`` itself if there is none."""
    if place == end:
        return place
    # Case folding also takes the long s (U+017F) for an s.
    if any_case and place + 1 < end and buffer[place] == 0xC5 and buffer[place + 1] == 0xBF:
        return place + 2
    lower = np.uint8(0x20) if any_case else np.uint8(0)
    first = buffer[place] | lower
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:
        return place + 1
    if place + 1 < end:
        second = buffer[place + 1] | lower
        if (first == 0x6C and second == 0x6C) or ((first == 0x72 or first == 0x76) and second == 0x65):
            return place + 2
    return place


@compiled
def word_bounds(
    buffer: NDArray[np.uint8], start: int, end: int, pattern: int, classes: NDArray[np.uint8], ends: NDArray[np.int64]
) -> int:
    """Write the end of every word of a text into ``ends`` (as long as the text has bytes); returns their number."""
    count = 0
    while start < end:
        start = word_end(buffer, start, end, pattern, classes)
        ends[count] = start
        count += 1
    return count
