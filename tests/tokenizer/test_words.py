from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from pipelines.tokenizer.protocol import byte_symbols
from pipelines.tokenizer.words import count_words


def by_library(texts):
    library = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Counter(word for text in texts for word, _ in library.pre_tokenize_str(text))


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.text(st.characters(max_codepoint=127), max_size=40), max_size=4))
def test_ascii_text_is_split_as_the_library_splits_it(texts):
    assert count_words(texts) == by_library(texts)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(max_size=40), max_size=4))
def test_any_text_is_split_as_the_library_splits_it(texts):
    assert count_words(texts) == by_library(texts)


def test_contractions_spaces_and_digits():
    words = count_words(["we'll  pay\n\n 12x\t"])
    assert dict(words) == {"we": 1, "'ll": 1, "Ġ": 1, "Ġpay": 1, "ĊĊ": 1, "Ġ12": 1, "x": 1, "ĉ": 1}


def test_the_byte_alphabet_is_the_librarys():
    assert byte_symbols() == sorted(pre_tokenizers.ByteLevel.alphabet())
