"""The segmentation while pairs merge and tokens split: its counts and its head against a recount."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.segmentation import Segmentation
from pipelines.tokenizer.words import Words, make_words

BYTES = [bytes([byte]) for byte in range(256)]


def replaced(word, run, result):
    new, place = [], 0
    while place < len(word):
        if word[place : place + len(run)] == run:
            new += result
            place += len(run)
        else:
            new.append(word[place])
            place += 1
    return new


def best(segmented):
    pairs = Counter()
    for word, count in segmented:
        for pair in pairwise(word):
            pairs[pair] += count
    return min(((-count, pair) for pair, count in pairs.items()), default=None)


@pytest.mark.parametrize("seed", range(6))
def test_counts_and_head_stay_exact_while_tables_and_queue_grow(seed):
    rng = random.Random(seed)
    # Few pairs occur twice, so that tables grow; every third corpus has few letters and long runs instead.
    letters = range(256) if seed % 3 else b"ab"
    words = {bytes(rng.choices(letters, k=rng.randint(1, 30))): rng.randint(1, 5) for _ in range(120)}
    text = Segmentation(make_words(words), BYTES, splits=True)
    segmented = [(list(word), count) for word, count in words.items()]
    made = {}
    for step in range(400):
        head = text.head()
        expected = best(segmented)
        assert (head is None) == (expected is None)
        if head is None:
            break
        count, left, right = head
        assert (-count, (left, right)) == expected
        token = len(text.counts)
        made[token] = [left, right]
        text.merge(left, right, token)
        segmented = [(replaced(word, [left, right], [token]), times) for word, times in segmented]
        if step % 5 == 4:
            gone = rng.choice(sorted(made))
            parts = made.pop(gone)
            text.split(gone, parts)
            segmented = [(replaced(word, [gone], parts), times) for word, times in segmented]
        counts = Counter()
        for word, times in segmented:
            for each in word:
                counts[each] += times
        assert text.counts == [counts[each] for each in range(len(text.counts))]


def test_of_equal_pairs_the_one_of_smaller_ids_comes_first_and_one_passed_over_waits():
    text = Segmentation(make_words({b"ba": 2, b"ab": 2, b"ac": 1}), BYTES)
    assert text.head() == (2, 97, 98)
    text.pass_over()
    assert text.head() == (2, 98, 97)
    text.pass_over()
    assert text.head() == (1, 97, 99)
    text.pass_over()
    assert text.head() is None


def test_words_of_one_byte_or_none_have_no_head():
    assert Segmentation(make_words({b"a": 3}), BYTES).head() is None
    assert Segmentation(make_words({}), BYTES).head() is None


def test_a_byte_outside_the_alphabet_is_an_error():
    with pytest.raises(ValueError, match="not in the alphabet: b'c'"):
        Segmentation(make_words({b"abc": 1}), [b"a", b"b"])


def test_more_text_than_positions_can_number_is_refused():
    letters = np.broadcast_to(np.uint8(97), 2**31)
    words = Words(letters, np.array([2**31]), np.array([1]))
    with pytest.raises(RetraceError, match="distinct words hold 2,147,483,650 bytes"):
        Segmentation(words, BYTES)
