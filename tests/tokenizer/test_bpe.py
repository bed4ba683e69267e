"""The baseline against byte-pair encoding written out, against Hugging Face's trainer, and the vocabulary's order."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, models, trainers

from pipelines.runs.methods import load_method
from pipelines.tokenizer.patterns import PATTERNS, pre_tokenizer_of
from pipelines.tokenizer.protocol import byte_symbols
from pipelines.tokenizer.spec import TokenizerSpec


def naive_merges(texts, num_merges, min_frequency):
    """Sennrich et al. 2016, Algorithm 1: count all pairs anew, merge the most frequent one, again."""
    rank = {symbol: place for place, symbol in enumerate(byte_symbols())}
    split = pre_tokenizer_of("gpt2").pre_tokenize_str
    counts = Counter(word for text in texts for word, _span in split(text))
    words = [(list(word), count) for word, count in counts.items()]
    merges = []
    while len(merges) < num_merges:
        pairs = Counter()
        for word, count in words:
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], rank[pair[0]], rank[pair[1]]), default=None)
        if best is None or pairs[best] < min_frequency:
            break
        merges.append(best)
        rank.setdefault("".join(best), len(rank))
        for word, _ in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def library_tokens(texts, vocab_size, pattern="gpt2"):
    """What Hugging Face's trainer learns."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer_of(pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=byte_symbols(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.get)


def learn(texts, learn_from, method="bpe", **spec):
    checked = TokenizerSpec(**spec)
    return load_method("tokenizer", method).learn(learn_from(texts, checked.pattern), checked, lambda size: None)


def test_merges_are_those_of_the_algorithm_written_out(texts, words_of):
    few = [text[:4000] for text in texts[:6]]
    for min_frequency, vocab_size in ((1, 400), (8, 2000)):
        learned = learn(few, words_of, vocab_size=vocab_size, min_frequency=min_frequency)
        assert learned.merges == naive_merges(few, vocab_size - 257, min_frequency)
        assert (learned.vocab_size == vocab_size) == (min_frequency == 1)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tokens_are_those_of_hugging_face_with_every_pattern(texts, words_of, pattern):
    # Without a pattern every text is one long word.
    some = texts[:50] if pattern == "none" else texts
    assert learn(some, words_of, vocab_size=2048, pattern=pattern).tokens == library_tokens(some, 2048, pattern)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["embedded", "fiction"])
def test_tokens_are_those_of_hugging_face_at_8k_and_32k(request, words_of, source):
    texts = request.getfixturevalue(f"{source}_texts")
    expected = library_tokens(texts, 32768)
    assert len(expected) == 32768
    for method in ("bpe", {"name": "scaffold_bpe", "scaffolding": False}):
        for vocab_size in (8192, 32768):
            # Merging greedily, a small vocabulary is the beginning of a large one.
            assert learn(texts, words_of, method=method, vocab_size=vocab_size).tokens == expected[:vocab_size]


def test_ids_are_specials_then_bytes_then_merges_in_order(texts, words_of):
    learned = learn(texts, words_of, vocab_size=300)
    assert learned.tokens[:257] == ["<|endoftext|>", *byte_symbols()]
    assert learned.tokens[257:] == ["".join(pair) for pair in learned.merges]
    assert learned.scaffold_tokens == []
