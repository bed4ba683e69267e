"""Words and their table on disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.protocol import byte_symbols, from_symbols, to_symbols
from pipelines.tokenizer.words import make_words, read_words, write_words


def test_the_byte_alphabet_is_the_librarys():
    assert byte_symbols() == sorted(pre_tokenizers.ByteLevel.alphabet())


@given(st.binary())
def test_symbols_stand_for_bytes_and_back(token):
    assert from_symbols(to_symbols(token)) == token
    assert len(to_symbols(token)) == len(token)
    assert from_symbols(to_symbols(token) + " ") == b""


def test_a_table_is_sorted_and_read_back(tmp_path):
    words = {" the": 12, "é": 3, "\n": 1, "#": 2, "a\tb": 5, "漢": 2**40}
    written = make_words({word.encode(): count for word, count in words.items()})
    write_words(tmp_path / "words.tsv", written)
    lines = (tmp_path / "words.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == ["Ċ\t1", "Ġthe\t12", "#\t2", "aĉb\t5", "Ã©\t3", "æ¼¢\t1099511627776"]
    read = read_words(tmp_path / "words.tsv")
    assert dict(read.items()) == dict(written.items())


def test_lines_of_one_word_add_up(tmp_path):
    (tmp_path / "words.tsv").write_text("a\t1\nb\t2\na\t3\r\n", encoding="utf-8")
    assert dict(read_words(tmp_path / "words.tsv").items()) == {b"a": 4, b"b": 2}


def test_no_words_are_words_too():
    assert dict(make_words({}).items()) == {}
    assert make_words({}).ends.dtype == np.int64


@pytest.mark.parametrize(
    "line", ["a", "a\t", "a\t0", "a\t-1", "a\t1.5", "a b\t1", "\t1", "a\t1\t2", "a\t99999999999999999999", "Ã\t1"]
)
def test_a_line_that_is_no_word_with_a_count_is_named(tmp_path, line):
    (tmp_path / "words.tsv").write_text(f"ok\t1\n{line}\n", encoding="utf-8")
    with pytest.raises(RetraceError, match=r"words\.tsv:2 is not a word in byte-level characters"):
        read_words(tmp_path / "words.tsv")
