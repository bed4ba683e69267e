"""The compiled splitting of text into words, held against `tokenizers`' own."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel, Split, Whitespace

from pipelines.tokenizer.character_classes import class_table
from pipelines.tokenizer.patterns import PATTERNS, pattern_of, pre_tokenizer_of
from pipelines.tokenizer.scanner import CODE_OF_PATTERN, word_bounds

# Where the patterns decide: contractions, the space before a word, newlines, and letters beyond ASCII.
SHARP = st.sampled_from(
    [*"aZsStTrReElLvVmMdD'' \t\n\r1234.,é漢字Ⅷ²٣ſK", "\u00a0", "\u2028", "\x85", "\x1c", "\u0301", "😀"]
)
TEXTS = st.one_of(st.text(max_size=40), st.lists(SHARP, max_size=20).map("".join))


def split(text: str, pattern: str) -> list[str]:
    buffer = np.frombuffer(text.encode(), np.uint8)
    ends = np.zeros(len(buffer), np.int64)
    count = word_bounds(buffer, 0, len(buffer), CODE_OF_PATTERN[pattern], class_table(), ends)
    bounds = [0, *ends[:count].tolist()]
    return [buffer[a:b].tobytes().decode() for a, b in pairwise(bounds)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_words_are_those_of_the_regular_expression(pattern):
    library = Split(Regex(PATTERNS[pattern]), "isolated")

    @settings(max_examples=500, deadline=None)
    @given(TEXTS)
    def agree(text):
        assert split(text, pattern) == [word for word, _span in library.pre_tokenize_str(text)]

    agree()


def test_every_code_point_has_the_class_the_library_gives_it():
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    text = "".join(map(chr, points))
    for kind, regex in enumerate([r"\p{L}+", r"\p{N}+", r"\s+"], start=1):
        mine = np.ones(len(points), np.bool_)
        for _piece, (start, end) in Split(Regex(regex), "removed").pre_tokenize_str(text):
            mine[start:end] = False
        assert np.array_equal(class_table()[points] == kind, mine)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_tokenizer_tells_its_pattern(pattern):
    tokenizer = Tokenizer(models.BPE())
    assert pattern_of(tokenizer) is None
    tokenizer.pre_tokenizer = pre_tokenizer_of(pattern)
    assert pattern_of(Tokenizer.from_str(tokenizer.to_str())) == pattern


def test_another_pre_tokenizer_is_not_taken_for_one_of_ours():
    tokenizer = Tokenizer(models.BPE())
    for other in (Whitespace(), ByteLevel(add_prefix_space=True)):
        tokenizer.pre_tokenizer = other
        assert pattern_of(tokenizer) is None
