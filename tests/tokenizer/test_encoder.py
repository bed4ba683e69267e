"""The compiled encoder gives the ids that `tokenizers` and the expansion table give, and every text comes back."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from pipelines.tokenizer import encoder as encoder_module
from pipelines.tokenizer import loading
from pipelines.tokenizer.encoder import compiled_encoder
from pipelines.tokenizer.folder import read_tokenizer, write_tokenizer
from pipelines.tokenizer.loading import COMPILED_FROM, LoadedTokenizer, load_tokenizer
from pipelines.tokenizer.patterns import PATTERNS
from pipelines.tokenizer.protocol import LearnedVocabulary, byte_symbols, to_symbols

END = "<|endoftext|>"
PIECES = [*"abcd é漢字 \n\t'", "😀", "abc", "the", " the", "THE", "thethe", "'s", "12", "aaaa", END, "\r\n\n", "  "]
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=20).map("".join), st.text(max_size=20))


@pytest.fixture(scope="module", params=PATTERNS)
def folder(request, tmp_path_factory):
    """Tokens that reach over spaces and characters, many of them scaffolds, with each pattern."""
    merges, scaffolds, expansions = {}, [], {}
    for word in ("abcd", "bcd", "the", " the", "the the", "aaaaaa", "漢字", "é", "12", "\n\n", "'s", "😀"):
        token, *rest = to_symbols(word.encode())
        for symbol in rest:
            left, token = token, token + symbol
            if (left, symbol) not in merges:
                merges[left, symbol] = token
                if len(token) % 2:
                    scaffolds.append(token)
                    expansions[token] = [*expansions.get(left, [left]), symbol]
    visible = [token for token in merges.values() if token not in scaffolds]
    tokens = [END, *byte_symbols(), *visible, *scaffolds]
    out = tmp_path_factory.mktemp(request.param)
    learned = LearnedVocabulary(tokens, list(merges), scaffolds, {}, expansions)
    write_tokenizer(out, learned, (END,), request.param)
    return out


def in_rust(folder, texts, expand=True):
    tokenizer, table = read_tokenizer(folder)
    tokenizer.encode_special_tokens = True
    ids = [np.array(each.ids, dtype=np.int32) for each in tokenizer.encode_batch(texts)]
    return [table.expand(each).tolist() if expand else each.tolist() for each in ids]


def test_ids_are_those_of_rust_and_the_text_comes_back(folder):
    tokenizer, table = read_tokenizer(folder)
    compiled, loaded = compiled_encoder(tokenizer, table), load_tokenizer(folder)
    whole = compiled_encoder(tokenizer, None)

    @settings(max_examples=400, deadline=None)
    @given(st.lists(TEXTS, max_size=5))
    def agree(texts):
        ids = [each.tolist() for each in compiled.encode_batch(texts)]
        assert ids == in_rust(folder, texts)
        assert [each.tolist() for each in whole.encode_batch(texts)] == in_rust(folder, texts, expand=False)
        assert [loaded.decode(each) for each in ids] == texts
        assert all(each < loaded.vocab_size for row in ids for each in row)

    agree()


def test_any_bytes_come_back(folder):
    loaded = load_tokenizer(folder)

    @settings(max_examples=400, deadline=None)
    @given(st.one_of(st.binary(max_size=30), TEXTS.map(str.encode).map(lambda data: data[1:-1])))
    def back(data):
        ids = loaded.encode_bytes(data)
        assert loaded.decode_bytes(ids) == data
        assert loaded.decode(ids) == data.decode("utf-8", "replace")

    back()


def test_threads_and_groups_change_no_id_and_keep_the_order(folder, monkeypatch):
    tokenizer, table = read_tokenizer(folder)
    texts = ["".join(np.random.default_rng(i).choice(PIECES, size=i % 50)) for i in range(400)]
    expected = in_rust(folder, texts)
    for task_bytes, threads in ((100, 1), (100, 3), (1 << 20, 2)):
        monkeypatch.setattr(encoder_module, "TASK_BYTES", task_bytes)
        encoded = compiled_encoder(tokenizer, table).encode_batch(texts, threads)
        assert [each.tolist() for each in encoded] == expected
    assert all(each.base is None or each.base.size < 2_000_000 for each in encoded)


def test_words_longer_than_any_room_are_merged_and_the_work_goes_on_behind_them(folder):
    tokenizer, table = read_tokenizer(folder)
    long = "the" * 5000 + "a" * 7001
    texts = ["the a", f"the {long} the", long + long, "the"]
    encoded = compiled_encoder(tokenizer, table).encode_batch(texts)
    assert [each.tolist() for each in encoded] == in_rust(folder, texts)


def test_more_words_than_the_cache_holds(trained):
    tokenizer, table = read_tokenizer(trained("scaffold_bpe"))
    tokenizer.encode_special_tokens = True
    texts = [
        " ".join(f"w{i:x}{i * 7919:x}" for i in range(start, start + 20_000)) for start in range(0, 300_000, 20_000)
    ]
    encoded = compiled_encoder(tokenizer, table).encode_batch(texts, 1)
    expected = [table.expand(np.array(each.ids)) for each in tokenizer.encode_batch(texts)]
    assert all(np.array_equal(a, b) for a, b in zip(encoded, expected, strict=True))


def test_a_long_batch_is_compiled_and_gives_what_short_ones_give(trained, texts):
    loaded, short = load_tokenizer(trained("scaffold_bpe")), load_tokenizer(trained("scaffold_bpe"))
    many = texts * (1 + COMPILED_FROM // sum(map(len, texts)))
    for name in ("encode_batch", "encode_batch_with_scaffolds"):
        long = getattr(loaded, name)(many, num_threads=2)
        assert [each.tolist() for each in long[: len(texts)]] == [each.tolist() for each in getattr(short, name)(texts)]
    assert set(loaded._compiled) == {True, False}
    assert not short._compiled


@pytest.mark.parametrize("method", ["bpe", "scaffold_bpe", "picky_bpe"])
def test_texts_one_after_another_give_what_a_batch_gives_for_any_number_of_threads(trained, texts, method):
    loaded = load_tokenizer(trained(method))
    expected = [loaded.encode(text) for text in texts]
    assert [each.tolist() for each in loaded.encode_each(iter(texts))] == expected
    # The same again, so often that it is compiled; Python's own encoder would be at it for minutes.
    times = 1 if method == "picky_bpe" else 1 + COMPILED_FROM // sum(map(len, texts))
    for threads in (1, 2, 3):
        encoded = [each.tolist() for each in loaded.encode_each(iter(texts * times), threads)]
        assert encoded == expected * times
    assert bool(loaded._compiled) == (method != "picky_bpe")


@pytest.mark.parametrize("method", ["scaffold_bpe", "picky_bpe"])
def test_texts_without_end_are_read_only_as_far_as_they_are_needed(trained, texts, method):
    loaded = load_tokenizer(trained(method))
    num_read = 0

    def endless():
        nonlocal num_read
        for text in itertools.cycle(texts):
            num_read += len(text)
            yield text

    taken = list(itertools.islice(loaded.encode_each(endless(), num_threads=2), 3 * len(texts)))
    assert [each.tolist() for each in taken[-len(texts) :]] == [loaded.encode(text) for text in texts]
    needed = sum(map(len, texts)) * 3
    assert num_read < needed + COMPILED_FROM + 8 * encoder_module.TASK_BYTES


def test_a_tokenizer_it_does_not_know_reads_texts_without_end_in_batches(texts, monkeypatch):
    monkeypatch.setattr(loading, "BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(loading, "COMPILED_FROM", 3000)
    tokenizer, few = plain(ignore_merges=True), [text[:300] for text in texts[:40]]
    encoded = itertools.islice(LoadedTokenizer(tokenizer, None).encode_each(itertools.cycle(few)), 200)
    expected = [each.ids for each in tokenizer.encode_batch(few)]
    assert [each.tolist() for each in encoded] == expected * 5


def plain(**changes):
    vocabulary = {symbol: place for place, symbol in enumerate(byte_symbols())}
    tokenizer = Tokenizer(models.BPE({**vocabulary, "ab": 256}, [("a", "b")], **changes))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([END])
    return tokenizer


def test_kinds_of_tokenizers_it_does_not_know_are_left_to_rust():
    assert compiled_encoder(plain(), None) is not None
    with_normalizer, with_words, with_added = plain(), plain(), plain()
    with_normalizer.normalizer = normalizers.Lowercase()
    with_words.pre_tokenizer = pre_tokenizers.Whitespace()
    with_added.add_tokens([AddedToken("<b>")])
    few = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    few.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    others = [plain(dropout=0.5), plain(ignore_merges=True), with_normalizer, with_words, with_added, few]
    others.append(Tokenizer(models.WordLevel({"a": 0}, "a")))
    assert [compiled_encoder(each, None) for each in others] == [None] * len(others)
    with_normalizer.add_special_tokens([END])
    loaded = LoadedTokenizer(with_normalizer, None)
    assert loaded.encode_batch(["AB" * COMPILED_FROM])[0].tolist() == [256] * COMPILED_FROM


def test_half_a_surrogate_pair_is_no_text(folder):
    tokenizer, table = read_tokenizer(folder)
    with pytest.raises(UnicodeEncodeError):
        compiled_encoder(tokenizer, table).encode_batch(["a", "\ud800"])


@pytest.mark.parametrize("method", ["bpe", "scaffold_bpe", "picky_bpe"])
@pytest.mark.parametrize("long", [False, True])
def test_half_a_surrogate_pair_is_refused_in_short_and_long_batches(trained, method, long):
    encoded = load_tokenizer(trained(method)).encode_each(["a" * (COMPILED_FROM * long), "\ud800"])
    with pytest.raises(UnicodeEncodeError):
        list(encoded)
    with pytest.raises(UnicodeEncodeError):
        load_tokenizer(trained(method)).encode("a\ud800")
