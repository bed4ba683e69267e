"""The baseline against byte-pair encoding written out, and the vocabulary's order."""

from collections import Counter
from itertools import pairwise

from pipelines.runs.methods import load_method
from pipelines.tokenizer.protocol import byte_symbols
from pipelines.tokenizer.spec import TokenizerSpec
from pipelines.tokenizer.words import count_words


def naive_merges(texts, num_merges, min_frequency):
    """Sennrich et al. 2016, Algorithm 1: count all pairs anew, merge the most frequent one, again."""
    alphabet = byte_symbols()
    rank = {symbol: place for place, symbol in enumerate(alphabet)}
    words = [(list(word), count) for word, count in count_words(texts).items()]
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


def test_merges_are_those_of_the_algorithm_written_out(texts):
    few = [text[:4000] for text in texts[:6]]
    for min_frequency, vocab_size in ((1, 400), (8, 2000)):
        spec = TokenizerSpec(vocab_size=vocab_size, min_frequency=min_frequency)
        learned = load_method("tokenizer", "bpe").learn(lambda: iter(few), spec)
        assert learned.merges == naive_merges(few, vocab_size - 257, min_frequency)
        assert (learned.vocab_size == vocab_size) == (min_frequency == 1)


def test_ids_are_specials_then_bytes_then_merges_in_order(texts):
    learned = load_method("tokenizer", "bpe").learn(lambda: iter(texts), TokenizerSpec(vocab_size=300))
    assert learned.tokens[:257] == ["<|endoftext|>", *byte_symbols()]
    assert learned.tokens[257:] == ["".join(pair) for pair in learned.merges]
    assert learned.scaffold_tokens == []
