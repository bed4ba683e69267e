"""Splitting UTF-8 text into words, in machine code: the patterns of `pipelines.tokenizer.patterns` by hand.

Equal to what `tokenizers` makes of the regular expressions, several times faster, and without the interpreter's lock.
"""

from __future__ import annotations

from pipelines.tokenizer.character_classes import LETTER, NUMBER, OTHER, SPACE
from pipelines.tokenizer.compiled import Bytes, Int64s, compiled, inlined

CODE_OF_PATTERN = {"gpt2": 0, "llama3": 1, "whitespace": 2, "none": 3}
_GPT2, _LLAMA3, _WHITESPACE, _NONE = CODE_OF_PATTERN.values()


@inlined
def _decode(buffer: Bytes, place: int) -> tuple[int, int]:
    """Code point at a place of valid UTF-8, and its bytes."""
    first = int(buffer[place])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (buffer[place + 1] & 0x3F), 2
    if first < 0xF0:
        return (first & 0x0F) << 12 | (buffer[place + 1] & 0x3F) << 6 | (buffer[place + 2] & 0x3F), 3
    middle = (buffer[place + 1] & 0x3F) << 12 | (buffer[place + 2] & 0x3F) << 6
    return (first & 0x07) << 18 | middle | (buffer[place + 3] & 0x3F), 4


@inlined
def word_end(buffer: Bytes, place: int, end: int, pattern: int, classes: Bytes) -> int:
    """Where the word that begins at ``place`` ends.

    Args:
        buffer: [bytes] uint8 valid UTF-8.
        end: end of the text that ``place`` lies in.
        pattern: of ``CODE_OF_PATTERN``.
        classes: ``class_table()``.
    """
    if pattern == _NONE:
        return end
    point, width = _decode(buffer, place)
    kind = classes[point]
    after = place + width
    if pattern == _WHITESPACE:
        if kind != SPACE:
            return _run_of_not_space(buffer, after, end, classes)
        if point == 0x20 and after < end and _class_at(buffer, after, classes) != SPACE:
            return _run_of_not_space(buffer, after, end, classes)
        return _white_space(buffer, place, end, classes, False)
    if point == 0x27:
        contraction = _contraction(buffer, after, end, pattern == _LLAMA3)
        if contraction > after:
            return contraction
    if kind == LETTER:
        return _run(buffer, after, end, LETTER, classes)
    if kind == NUMBER:
        return _run(buffer, after, end, NUMBER, classes) if pattern == _GPT2 else _three(buffer, place, end, classes)
    next_kind = _class_at(buffer, after, classes) if after < end else SPACE
    if pattern == _LLAMA3:
        newline = point == 0x0A or point == 0x0D
        if not newline and next_kind == LETTER:
            return _run(buffer, after, end, LETTER, classes)
        if kind == OTHER or (point == 0x20 and next_kind == OTHER):
            return _run_of_newlines(buffer, _run(buffer, after, end, OTHER, classes), end)
    elif kind == OTHER or (point == 0x20 and next_kind != SPACE):
        return _run(buffer, after, end, next_kind if kind == SPACE else kind, classes)
    return _white_space(buffer, place, end, classes, pattern == _LLAMA3)


@inlined
def _class_at(buffer: Bytes, place: int, classes: Bytes) -> int:
    first = buffer[place]
    return classes[first] if first < 0x80 else classes[_decode(buffer, place)[0]]


@inlined
def _run(buffer: Bytes, place: int, end: int, kind: int, classes: Bytes) -> int:
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


@inlined
def _run_of_not_space(buffer: Bytes, place: int, end: int, classes: Bytes) -> int:
    while place < end:
        point, width = _decode(buffer, place)
        if classes[point] == SPACE:
            break
        place += width
    return place


@inlined
def _run_of_newlines(buffer: Bytes, place: int, end: int) -> int:
    while place < end and (buffer[place] == 0x0A or buffer[place] == 0x0D):
        place += 1
    return place


@inlined
def _three(buffer: Bytes, place: int, end: int, classes: Bytes) -> int:
    """End of at most three numerals."""
    for _ in range(3):
        if place == end:
            break
        point, width = _decode(buffer, place)
        if classes[point] != NUMBER:
            break
        place += width
    return place


@inlined
def _white_space(buffer: Bytes, place: int, end: int, classes: Bytes, newlines_end: bool) -> int:
    r"""``\s*[\r\n]+`` where newlines end a word, then ``\s+(?!\S)|\s+``: all but the last character before a word."""
    start = last = place
    newline = -1
    while place < end:
        point, width = _decode(buffer, place)
        if classes[point] != SPACE:
            break
        last = place
        place += width
        if point == 0x0A or point == 0x0D:
            newline = place
    if newlines_end and newline >= 0:
        return newline
    return place if place == end or last == start else last


@inlined
def _contraction(buffer: Bytes, place: int, end: int, any_case: bool) -> int:
    """End of s, t, re, ve, m, ll or d from here, behind an apostrophe; ``place`` itself if there is none."""
    if place == end:
        return place
    # Case folding also takes the long s (U+017F) for an s.
    if any_case and place + 1 < end and buffer[place] == 0xC5 and buffer[place + 1] == 0xBF:
        return place + 2
    lower = 0x20 if any_case else 0
    first = buffer[place] | lower
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:
        return place + 1
    if place + 1 < end:
        second = buffer[place + 1] | lower
        if (first == 0x6C and second == 0x6C) or ((first == 0x72 or first == 0x76) and second == 0x65):
            return place + 2
    return place


@compiled
def word_bounds(buffer: Bytes, start: int, end: int, pattern: int, classes: Bytes, ends: Int64s) -> int:
    """Write the end of every word of a text into ``ends`` (as long as the text has bytes); returns their number."""
    count = 0
    while start < end:
        start = word_end(buffer, start, end, pattern, classes)
        ends[count] = start
        count += 1
    return count


@compiled
def safe_cut(buffer: Bytes, size: int, pattern: int, classes: Bytes) -> int:
    """The last place where any text that begins with these bytes may be cut in two without a change of words; or 0.

    Between a letter or number and what is neither, every word of gpt2 and llama3 ends, and none looks ahead; before
    white space, every word of whitespace. Without a pattern a line break ends a text.
    """
    for place in range(size - 1, 0, -1):
        if pattern == _NONE:
            if buffer[place - 1] == 0x0A:
                return place
        elif buffer[place] & 0xC0 != 0x80:
            before = place - 1
            while buffer[before] & 0xC0 == 0x80:
                before -= 1
            left, right = _class_at(buffer, before, classes), _class_at(buffer, place, classes)
            if pattern == _WHITESPACE:
                if left != SPACE and right == SPACE:
                    return place
            elif left in (LETTER, NUMBER) and right in (SPACE, OTHER):
                return place
    return 0
