"""The method on real text: the vocabulary's shape, what it encodes, and that it is the same each time."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.runs.methods import load_method
from pipelines.tokenizer.folder import SCAFFOLD, TOKENIZER
from pipelines.tokenizer.loading import load_tokenizer
from pipelines.tokenizer.spec import TokenizerSpec

SIZE = 2048


def test_the_vocabulary_has_exactly_the_size_asked_and_scaffolds_come_after_it(texts, words_of):
    learned = load_method("tokenizer", "scaffold_bpe").learn(
        words_of(texts), TokenizerSpec(vocab_size=SIZE), lambda size: None
    )
    assert learned.vocab_size == SIZE
    assert len(learned.scaffold_tokens) > 50
    assert learned.tokens[SIZE:] == learned.scaffold_tokens
    assert learned.tokens[0] == "<|endoftext|>"
    visible = set(learned.tokens[:SIZE])
    assert all(set(parts) <= visible for parts in learned.expansions.values())


def test_encoding_the_training_text_gives_every_token_its_training_frequency(trained, texts):
    tokenizer = load_tokenizer(trained("scaffold_bpe"))
    body = json.loads((trained("scaffold_bpe") / SCAFFOLD).read_text(encoding="utf-8"))
    ids = np.concatenate(tokenizer.encode_batch_with_scaffolds(texts))
    counts = np.bincount(ids, minlength=tokenizer.num_tokens)
    encoded = {tokenizer.encoder.id_to_token(i): int(count) for i, count in enumerate(counts)}
    assert encoded == body["frequencies"]


def test_an_encoded_scaffold_becomes_the_parts_in_the_table(trained, texts):
    tokenizer = load_tokenizer(trained("scaffold_bpe"))
    body = json.loads((trained("scaffold_bpe") / SCAFFOLD).read_text(encoding="utf-8"))
    raw = tokenizer.encode_batch_with_scaffolds(texts)
    assert sum(int((ids >= tokenizer.vocab_size).sum()) for ids in raw) > 0
    for before, after in zip(raw, tokenizer.encode_batch(texts), strict=True):
        expected = []
        for i in before.tolist():
            expected += [i] if i < tokenizer.vocab_size else body["expansions"][i - tokenizer.vocab_size]
        assert after.tolist() == expected


@pytest.mark.parametrize("method", ["bpe", "scaffold_bpe"])
@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_survives_encoding_and_decoding(trained, method, text):
    tokenizer = load_tokenizer(trained(method))
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size and i != tokenizer.eod_id for i in ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("method", ["bpe", "scaffold_bpe"])
def test_training_twice_gives_the_same_bytes(trained, run_verb, corpus, tmp_path, method):
    run_verb("train", {"method": method, "vocab_size": 1024}, tmp_path / "again", corpus=corpus)
    files = sorted(path.name for path in trained(method).iterdir() if path.name != "run.json")
    assert (SCAFFOLD in files) == (method == "scaffold_bpe")
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (trained(method) / name).read_bytes()


def test_tokenizer_json_read_alone_is_the_encoder_over_all_tokens(trained, texts):
    from tokenizers import Tokenizer

    alone = Tokenizer.from_file(str(trained("scaffold_bpe") / TOKENIZER))
    body = json.loads((trained("scaffold_bpe") / SCAFFOLD).read_text(encoding="utf-8"))
    assert alone.get_vocab_size() == body["vocab_size"] + len(body["scaffold_tokens"])
    assert alone.decode(alone.encode(texts[0]).ids) == texts[0]
    assert body["merges"] == json.loads(alone.to_str())["model"]["merges"]
