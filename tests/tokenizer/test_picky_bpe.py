"""PickyBPE against the paper's algorithm recounted from scratch, its no-op, and encoding by replaying its events."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method
from pipelines.tokenizer.picky_encoding import PickyEncoder
from pipelines.tokenizer.protocol import alphabet, from_symbols, to_symbols
from pipelines.tokenizer.spec import TokenizerSpec
from pipelines.tokenizer.words import make_words


def recount(words, vocab_size, threshold):
    """Algorithm 1 with everything counted anew at each step: (tokens by creation, removed, events, counts)."""
    tokens = ["<|endoftext|>", *map(to_symbols, alphabet())]
    num_pinned = len(tokens)
    parents, removed, events = {}, set(), []
    segmented = [([tokens.index(to_symbols(bytes([byte]))) for byte in word], count) for word, count in words.items()]

    def counts():
        singles, pairs = Counter(), Counter()
        for word, count in segmented:
            for token in word:
                singles[token] += count
            for pair in pairwise(word):
                pairs[pair] += count
        return singles, pairs

    def replace(run, result):
        number = 0
        for place, (word, count) in enumerate(segmented):
            new, i = [], 0
            while i < len(word):
                if tuple(word[i : i + len(run)]) == run:
                    new += result
                    i += len(run)
                    number += count
                else:
                    new.append(word[i])
                    i += 1
            segmented[place] = (new, count)
        return number

    def parts(token):
        return [token] if token not in removed else [*parts(parents[token][0]), *parts(parents[token][1])]

    while len(tokens) - len(removed) < vocab_size:
        _, pairs = counts()
        pair = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if pair is None:
            break
        string = tokens[pair[0]] + tokens[pair[1]]
        if string not in tokens:
            parents[len(tokens)] = pair
            tokens.append(string)
        token = tokens.index(string)
        removed.discard(token)
        events.append((tokens[pair[0]], tokens[pair[1]]))
        merged = replace(pair, [token])
        for child in dict.fromkeys(pair):
            left = counts()[0][child]
            if child >= num_pinned and merged / (left + merged) > threshold:
                removed.add(child)
                events.append((tokens[child], tuple(tokens[part] for part in parts(child))))
                replace((child,), parts(child))
    singles, _ = counts()
    return tokens, {tokens[token] for token in removed}, events, {t: singles[i] for i, t in enumerate(tokens)}


def learn(words, vocab_size, method="picky_bpe", **options):
    spec = TokenizerSpec(vocab_size=vocab_size)
    counts = words if not isinstance(words, dict) else make_words(words)
    return load_method("tokenizer", {"name": method, **options}).learn(counts, spec, lambda size: None)


def random_words(seed):
    rng = random.Random(seed)
    letters = b"abcdefgh"[: rng.randint(1, 8)]
    return {
        bytes(rng.choice(letters) for _ in range(rng.randint(1, 14))): rng.choice((1, 1, 2, 3, 5, 11))
        for _ in range(rng.randint(1, 14))
    }


def test_agrees_with_a_full_recount_on_1000_random_corpora():
    happened = Counter()
    for seed in range(1000):
        words, size = random_words(seed), 257 + random.Random(seed).randint(0, 30)
        threshold = random.Random(seed).choice((0.5, 0.6, 0.8, 0.9))
        tokens, removed, events, counts = recount(words, size, threshold)
        learned = learn(words, size, threshold=threshold)
        assert learned.events == events, seed
        assert learned.tokens == [t for t in tokens if t not in removed] + [t for t in tokens if t in removed], seed
        assert set(learned.scaffold_tokens) == removed, seed
        assert learned.frequencies == counts, seed
        merges = [event for event in events if isinstance(event[1], str)]
        happened["removed"] += len(events) - len(merges)
        happened["made again"] += len(merges) - len({a + b for a, b in merges})
        happened["in three or more parts"] += sum(len(event[1]) > 2 for event in events if event not in merges)
    assert happened["removed"] > 2000
    assert happened["made again"] > 50
    assert happened["in three or more parts"] > 100


def test_with_threshold_1_it_is_bpe(texts, words_of):
    words = words_of(texts)
    picky, plain = learn(words, 1500, threshold=1.0), learn(words, 1500, method="bpe")
    assert picky.tokens == plain.tokens
    assert picky.merges == plain.merges
    assert picky.scaffold_tokens == []
    assert picky.events == list(plain.merges)


def test_encoding_replays_training_exactly(texts, words_of):
    words = words_of(texts)
    learned = learn(words, 2048, threshold=0.8)
    assert learned.vocab_size == 2048
    assert len(learned.scaffold_tokens) > 100
    ids = {token: place for place, token in enumerate(learned.tokens)}
    encoder = PickyEncoder(ids, learned.events, num_remembered=1000)
    counts = Counter()
    for word, count in words.items():
        for i in encoder.encode_word(to_symbols(word)):
            counts[learned.tokens[i]] += count
    assert {token: counts[token] for token in learned.tokens} == learned.frequencies
    assert all(learned.frequencies[token] == 0 for token in learned.scaffold_tokens)


def test_any_word_is_encoded_to_kept_tokens_that_spell_it(texts, words_of):
    learned = learn(words_of(texts), 1024, threshold=0.7)
    encoder = PickyEncoder({token: place for place, token in enumerate(learned.tokens)}, learned.events)
    rng = random.Random(0)
    for _ in range(300):
        word = bytes(rng.choice(b"abcdeilnorst \xc3\xa9") for _ in range(rng.randint(0, 20)))
        ids = encoder.encode_word(to_symbols(word))
        assert all(i < learned.vocab_size for i in ids)
        assert from_symbols("".join(learned.tokens[i] for i in ids)) == word


@pytest.mark.parametrize("threshold", [0.0, 1.5, -1.0])
def test_a_threshold_that_means_nothing_is_refused(threshold):
    with pytest.raises(RetraceError, match="threshold must be above 0 and at most 1"):
        learn({b"ab": 1}, 300, threshold=threshold)
