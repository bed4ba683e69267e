"""Counting words: the same for any threads, blocks and order, and exactly those of Hugging Face's pre-tokenizer."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tokenizer.character_classes import class_table
from pipelines.tokenizer.counting import WordTable, count_blocks, unite
from pipelines.tokenizer.patterns import PATTERNS, pre_tokenizer_of
from pipelines.tokenizer.protocol import from_symbols
from pipelines.tokenizer.reading import InvalidText, text_blocks
from pipelines.tokenizer.scanner import CODE_OF_PATTERN, safe_cut, word_bounds

TEXT = st.text(
    st.one_of(st.sampled_from("ab' s12\n\r\t.,é漢²ſ\u2028\u00a0"), st.characters(codec="utf-8")), max_size=40
)


def by_library(texts, pattern="gpt2"):
    split = pre_tokenizer_of(pattern).pre_tokenize_str
    return Counter(from_symbols(word) for text in texts for word, _span in split(text))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_words_are_counted_as_the_library_splits_them(texts, words_of, pattern):
    assert dict(words_of(texts[:50], pattern).items()) == by_library(texts[:50], pattern)


def test_threads_and_order_change_nothing(texts, words_of):
    expected = dict(words_of(texts, threads=1).items())
    shuffled = random.Random(0).sample(texts, len(texts))
    for threads in (2, 5):
        assert dict(words_of(shuffled, threads=threads).items()) == expected


def test_parts_add_up_to_the_whole(texts, words_of):
    parts = [words_of(texts[:10]), words_of(texts[10:11]), words_of(texts[11:])]
    assert dict(unite(parts).items()) == dict(words_of(texts).items())
    assert dict(unite([]).items()) == {}


def test_a_table_grows_from_nothing_to_any_number_and_length_of_words():
    words = [b"%d" % number for number in range(50_000)] + [b"x" * 300_000]
    table = WordTable("none")
    for _ in range(2):
        table.add_texts(np.frombuffer(b"".join(words), np.uint8), np.cumsum([len(word) for word in words]))
    assert dict(table.words().items()) == dict.fromkeys(words, 2)


def test_a_fault_while_reading_is_raised():
    def texts():
        yield from ["a b c" * 100_000] * 20
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        count_blocks(text_blocks(texts(), InvalidText()), "gpt2", 2)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_safe_cut_changes_no_word_whatever_follows(pattern):
    code, classes = CODE_OF_PATTERN[pattern], class_table()

    def ends(text):
        letters = np.frombuffer(text, np.uint8)
        found = np.empty(len(text), np.int64)
        return found[: word_bounds(letters, 0, len(text), code, classes, found)].tolist()

    @settings(max_examples=400, deadline=None)
    @given(TEXT, TEXT)
    def holds(text, following):
        known = text.encode()
        cut = safe_cut(np.frombuffer(known, np.uint8), len(known), code, classes)
        whole = known + following.encode()
        if cut and pattern != "none":
            left, right = ends(whole[:cut]), ends(whole[cut:])
            assert ends(whole) == left + [cut + end for end in right]
        elif cut:
            assert known[cut - 1 : cut] == b"\n"

    holds()


def test_words_are_cut_where_letters_end():
    for text, pattern, cut in (
        ("ab cd ef", "gpt2", 5),
        ("ab cd", "whitespace", 2),
        ("ab\ncd\nef", "none", 6),
        ("漢字、漢字", "llama3", 6),
        ("abcdef", "gpt2", 0),
        ("....  ..", "gpt2", 0),
        ("", "gpt2", 0),
    ):
        letters = np.frombuffer(text.encode(), np.uint8)
        assert safe_cut(letters, len(letters), CODE_OF_PATTERN[pattern], class_table()) == cut
