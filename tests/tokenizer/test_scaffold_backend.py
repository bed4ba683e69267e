"""Expanded encodings, held against what Rust itself makes of the same tokens."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Encoding, Tokenizer, models, pre_tokenizers, processors

from pipelines.tokenizer.expanded_encoding import _continues
from pipelines.tokenizer.folder import SCAFFOLD, TOKENIZER, write_tokenizer
from pipelines.tokenizer.protocol import LearnedVocabulary, byte_symbols, symbol_of_byte
from pipelines.tokenizer.scaffold_backend import read_backend

COLUMNS = ["ids", "tokens", "type_ids", "attention_mask", "special_tokens_mask", "offsets", "word_ids", "sequence_ids"]
SYMBOL = symbol_of_byte()
END = "<|endoftext|>"


def symbols(text: str) -> str:
    return "".join(SYMBOL[byte] for byte in text.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer by hand, so that scaffolds are common and begin and end inside characters too."""
    words = ["abcd", "漢字", "é漢", "😀x", " the", "éé"]
    merges: dict[tuple[str, str], None] = {}
    parts_of: dict[str, list[str]] = {}
    for word in map(symbols, words):
        for end in range(2, len(word) + 1):
            merges[word[: end - 1], word[end - 1]] = None
    made = [a + b for a, b in merges]
    scaffolds = [token for token in made if len(token) % 3 != 2 or token == symbols("é漢")]
    visible = [token for token in made if token not in scaffolds]
    for token in scaffolds:
        a, b = token[:-1], token[-1]
        parts_of[token] = [*parts_of.get(a, [a]), b]
    learned = LearnedVocabulary(
        tokens=[END, *byte_symbols(), *visible, *scaffolds],
        merges=list(merges),
        scaffold_tokens=scaffolds,
        expansions=parts_of,
    )
    out = tmp_path_factory.mktemp("hand")
    write_tokenizer(out, learned, (END,))
    return out


@pytest.fixture
def backend(folder):
    backend = read_backend(folder / TOKENIZER, folder / SCAFFOLD)
    backend.post_processor = template()
    return backend


def template():
    special = [(END, 0)]
    pair = f"{END}:0 $A:0 {END}:0 $B:1 {END}:1"
    return processors.TemplateProcessing(single=f"{END}:0 $A:0 {END}:0", pair=pair, special_tokens=special)


class Oracle:
    """Rust's encodings with scaffolds replaced one by one, then cut, joined and padded by Rust."""

    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        body = json.loads((folder / SCAFFOLD).read_text(encoding="utf-8"))
        self.expansions = dict(enumerate(body["expansions"], start=body["vocab_size"]))
        # Without merges every byte is a token, which tells the characters that each byte belongs to.
        self.bytes = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(byte_symbols())}, []))
        self.bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def expanded(self, text: str, sequence: int) -> Encoding:
        state = json.loads(self.tokenizer.encode(text, add_special_tokens=False).__getstate__())
        spans = self.bytes.encode(text).offsets
        columns = {name: [] for name in state if name not in ("overflowing", "sequence_ranges")}
        at = 0
        for place, own in enumerate(state["ids"]):
            for part in self.expansions.get(own, [own]):
                token = self.tokenizer.id_to_token(part)
                for name in columns:
                    columns[name].append(state[name][place])
                columns["ids"][-1] = part
                columns["tokens"][-1] = token
                if token != END:
                    columns["offsets"][-1] = [spans[at][0], spans[at + len(token) - 1][1]]
                    at += len(token)
                else:
                    # The bytes of a special token are not merged bytes of the text.
                    at += len(END)
        columns["type_ids"] = [sequence] * len(columns["ids"])
        encoding = Encoding()
        encoding.__setstate__(json.dumps({**state, **columns, "sequence_ranges": {}}).encode())
        return encoding

    def encode(self, text, pair, truncation, special):
        self.tokenizer.post_processor = template()
        self.tokenizer.no_truncation()
        first, second = self.expanded(text, 0), None if pair is None else self.expanded(pair, 1)
        if truncation is not None:
            self.tokenizer.enable_truncation(**truncation)
        return self.tokenizer.post_process(first, second, special)


TEXTS = st.one_of(
    st.lists(st.sampled_from([*"abcd éx漢字", "😀", "abc", "漢", " th", " the", "é漢", END]), max_size=12).map("".join),
    st.text(max_size=8),
)
TRUNCATIONS = st.builds(
    dict,
    max_length=st.integers(4, 14),
    stride=st.integers(0, 1),
    strategy=st.sampled_from(["longest_first", "only_first", "only_second"]),
    direction=st.sampled_from(["left", "right"]),
)


def assert_same(mine, rust):
    for name in COLUMNS:
        assert getattr(mine, name) == getattr(rust, name), name
    assert mine.n_sequences == rust.n_sequences
    assert len(mine) == len(rust)


@settings(max_examples=600, deadline=None)
@given(text=TEXTS, pair=st.none() | TEXTS, truncation=st.none() | TRUNCATIONS, special=st.booleans())
def test_cut_encodings_and_their_overflow_are_those_of_rust(folder, text, pair, truncation, special):
    backend, oracle = read_backend(folder / TOKENIZER, folder / SCAFFOLD), Oracle(folder)
    backend.post_processor = template()
    if truncation is not None:
        backend.enable_truncation(**truncation)
    try:
        mine = backend.encode(text, pair, add_special_tokens=special)
    except ValueError as refused:
        # Rust panics at a stride as long as what is left, for which there is a test below.
        if "stride" not in str(refused):
            with pytest.raises(Exception, match="Truncation error"):
                oracle.encode(text, pair, truncation, special)
        return
    rust = oracle.encode(text, pair, truncation, special)
    assert_same(mine, rust)
    assert len(mine.overflowing) == len(rust.overflowing)
    for window, expected in zip(mine.overflowing, rust.overflowing, strict=True):
        assert_same(window, expected)


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=4),
    direction=st.sampled_from(["left", "right"]),
    length=st.none() | st.integers(0, 20),
    multiple=st.none() | st.integers(1, 8),
)
def test_padded_encodings_are_those_of_rust(folder, texts, direction, length, multiple):
    backend, oracle = read_backend(folder / TOKENIZER, folder / SCAFFOLD), Oracle(folder)
    backend.post_processor = template()
    padding = {"direction": direction, "pad_id": 7, "pad_token": "<pad>", "pad_type_id": 3}
    backend.enable_padding(**padding, length=length, pad_to_multiple_of=multiple)
    rust = [oracle.encode(text, None, None, True) for text in texts]
    target = length if length is not None else max(map(len, rust))
    target = -(-target // multiple) * multiple if multiple else target
    for mine, expected in zip(backend.encode_batch(texts), rust, strict=True):
        expected.pad(target, **padding)
        assert_same(mine, expected)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, pair=st.none() | TEXTS)
def test_words_and_characters_are_found_as_rust_finds_them(folder, text, pair):
    backend = read_backend(folder / TOKENIZER, folder / SCAFFOLD)
    backend.post_processor = template()
    mine, rust = backend.encode(text, pair), Oracle(folder).encode(text, pair, None, True)
    for sequence in range(rust.n_sequences):
        for place in range(10):
            assert mine.char_to_token(place, sequence) == rust.char_to_token(place, sequence)
            assert mine.char_to_word(place, sequence) == rust.char_to_word(place, sequence)
            assert mine.word_to_tokens(place, sequence) == rust.word_to_tokens(place, sequence)
            assert mine.word_to_chars(place, sequence) == rust.word_to_chars(place, sequence)
    for place in range(len(rust)):
        assert mine.token_to_chars(place) == rust.token_to_chars(place)
        assert mine.token_to_word(place) == rust.token_to_word(place)
        assert mine.token_to_sequence(place) == rust.token_to_sequence(place)


def test_words_given_apart_keep_their_numbers_and_offsets(backend):
    encoded = backend.encode(["abc", "漢字", "abcd"], is_pretokenized=True, add_special_tokens=False)
    kanji = symbols("漢字")
    assert encoded.tokens == ["ab", "c", kanji[:5], kanji[5:], "ab", "c", "d"]
    assert encoded.word_ids == [0, 0, 1, 1, 2, 2, 2]
    assert encoded.offsets == [(0, 2), (2, 3), (0, 2), (1, 2), (0, 2), (2, 3), (3, 4)]


def test_parts_share_the_span_of_their_scaffold_where_offsets_are_trimmed(backend):
    whole = backend.encode(" th", add_special_tokens=False)
    assert (whole.tokens, whole.offsets) == (["Ġt", "h"], [(0, 2), (2, 3)])
    backend.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=False)
    assert backend.encode(" th").offsets == [(1, 3), (1, 3)]


def test_a_stride_without_a_way_on_is_refused(backend):
    backend.enable_truncation(max_length=3, stride=1)
    with pytest.raises(ValueError, match="stride 1 must be less than the 1 ids"):
        backend.encode("abcx")


def test_no_room_for_special_tokens_is_refused(backend):
    backend.enable_truncation(max_length=1)
    with pytest.raises(ValueError, match="max_length 1 has no room for 2 special tokens"):
        backend.encode("abc")


def test_room_for_special_tokens_alone_keeps_them_and_the_text_overflows(backend):
    backend.enable_truncation(max_length=2)
    encoded = backend.encode("abc")
    assert encoded.ids == [0, 0]
    assert [each.tokens for each in encoded.overflowing] == [[END, "ab", "c", END]]


def test_added_tokens_follow_the_vocabulary_and_never_meet_scaffolds(backend):
    size = backend.get_vocab_size()
    assert backend.add_tokens(["<new>", "<new>"]) == 1
    assert backend.add_special_tokens([AddedToken("<s>", special=True)]) == 1
    assert (backend.token_to_id("<new>"), backend.token_to_id("<s>")) == (size, size + 1)
    assert (backend.id_to_token(size), backend.get_vocab_size()) == ("<new>", size + 2)
    assert backend.get_vocab_size(with_added_tokens=False) == size
    assert sorted(backend.get_vocab().values()) == list(range(size + 2))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", size + 1)])
    encoded = backend.encode("abc<new>abcx<s>")
    assert encoded.ids[0] == encoded.ids[-1] == size + 1
    assert encoded.ids.count(size) == 1
    assert max(encoded.ids) == size + 1
    assert backend.decode(encoded.ids, skip_special_tokens=True) == "abc<new>abcx"
    assert set(backend.get_added_tokens_decoder()) == {0, size, size + 1}


def test_a_scaffold_is_no_token_and_cannot_be_added(backend):
    assert backend.token_to_id("abc") is None
    assert "abc" not in backend.get_vocab()
    with pytest.raises(ValueError, match="'abc' is a scaffold token"):
        backend.add_tokens(["abc"])


def test_copies_encode_alike(backend):
    text = "abc漢 the"
    for twin in (copy.deepcopy(backend), pickle.loads(pickle.dumps(backend))):
        assert twin.encode(text).ids == backend.encode(text).ids
    encoded = backend.encode(text)
    assert pickle.loads(pickle.dumps(encoded)).offsets == encoded.offsets


def test_what_could_leave_scaffolds_whole_is_not_there(backend):
    for name in ("encode_batch_fast", "train", "async_encode"):
        with pytest.raises(AttributeError, match=name):
            getattr(backend, name)


def test_bytes_inside_characters_are_told_by_their_letter():
    assert [byte for byte in range(256) if _continues(SYMBOL[byte])] == list(range(0x80, 0xC0))


def test_decoding_is_of_bytes_whatever_the_order(backend):
    ids = np.random.default_rng(0).integers(0, backend.get_vocab_size(), 50).tolist()
    assert backend.decode_batch([ids, []]) == [backend.decode(ids), ""]
