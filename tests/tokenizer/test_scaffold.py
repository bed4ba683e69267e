"""The learner against the worked examples of the paper's algorithm and a naive version that recounts everything."""

import random
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import pytest

from pipelines.tokenizer import scaffold
from pipelines.tokenizer.learning import Learner
from pipelines.tokenizer.words import make_words


@dataclass
class Learned:
    tokens: list[str]
    merges: list[tuple[int, int, int]]
    scaffolds: set[int]
    frequencies: list[int]

    @property
    def vocab_size(self):
        return len(self.tokens) - len(self.scaffolds)


def learn(words, alphabet, vocab_size, special_tokens=(), **options):
    counts = make_words({word.encode(): count for word, count in words.items()})
    learner = Learner(counts, special_tokens, [symbol.encode() for symbol in alphabet])
    scaffolds = scaffold.learn(learner, vocab_size, lambda size: None, **options)
    return Learned([token.decode() for token in learner.tokens], learner.merges, scaffolds, learner.counts)


def expansions(learned):
    return scaffold.expansions([token.encode() for token in learned.tokens], learned.merges, learned.scaffolds)


def recount(words, min_tokens, alphabet, vocab_size, min_frequency=1):
    """Algorithm 1 without any incremental state: (tokens, merges, scaffolds, events, final token counts)."""
    tokens, id_of = list(alphabet), {token: i for i, token in enumerate(alphabet)}
    segmented = [([id_of[c] for c in word], count) for word, count in words.items()]
    merges, scaffolds, events = [], set(), []

    def frequencies():
        singles, pairs = Counter(), Counter()
        for word, count in segmented:
            for token in word:
                singles[token] += count
            for pair in pairwise(word):
                pairs[pair] += count
        return singles, pairs

    def head():
        singles, pairs = frequencies()
        queue = [(-singles[t], 0, t, 0) for t in scaffolds if singles[t]]
        queue += [(-count, 1, a, b) for (a, b), count in pairs.items()]
        return min(queue, default=None)

    while len(tokens) - len(scaffolds) < vocab_size:
        best = head()
        if best is None or -best[0] < min_frequency:
            break
        _, kind, a, b = best
        if kind == 0:
            scaffolds.remove(a)
            events.append(("readmitted", a))
            continue
        string = tokens[a] + tokens[b]
        t = id_of.setdefault(string, len(tokens))
        if t == len(tokens):
            tokens.append(string)
        scaffolds.discard(t)
        merges.append((a, b, t))
        for place, (word, count) in enumerate(segmented):
            new, i = [], 0
            while i < len(word):
                if word[i : i + 2] == [a, b]:
                    new.append(t)
                    i += 2
                else:
                    new.append(word[i])
                    i += 1
            segmented[place] = (new, count)
        best = head()
        threshold = -best[0] if best else 0
        singles, _ = frequencies()
        for child in dict.fromkeys((a, b)):
            if child >= min_tokens and child not in scaffolds and singles[child] < threshold:
                scaffolds.add(child)
                events.append(("marked", child))
    singles, _ = frequencies()
    return tokens, merges, scaffolds, events, [singles[i] for i in range(len(tokens))]


def strings(learned):
    return [(learned.tokens[a], learned.tokens[b]) for a, b, _ in learned.merges]


def test_first_worked_example_gives_exactly_its_tokens_scaffolds_and_vocabulary():
    learned = learn({"ban": 3, "abc": 11, "bcd": 1}, "abcdn", 9)
    assert strings(learned) == [("b", "c"), ("a", "bc"), ("a", "n"), ("b", "an"), ("bc", "d")]
    assert learned.tokens == ["a", "b", "c", "d", "n", "bc", "abc", "an", "ban", "bcd"]
    assert [learned.tokens[t] for t in learned.scaffolds] == ["an"]
    assert learned.vocab_size == 9
    # "bc" was marked when "abc" was made and is back: it waited in the queue with its one occurrence in "bcd".
    assert learned.tokens.index("bc") not in learned.scaffolds
    # "an" is taken apart into a, n.
    assert expansions(learned) == {7: [0, 4]}


def test_second_worked_example_gives_exactly_its_merges_scaffolds_and_vocabulary():
    words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    learned = learn(words, sorted(set("".join(words))), 15)
    made = [learned.tokens[t] for _, _, t in learned.merges]
    expected = ["es", "est", "lo", "low", "ew", "new", "newest", "dest", "idest", "widest", "er", "lower"]
    assert made == expected
    assert {learned.tokens[t] for t in learned.scaffolds} == {"es", "est", "lo", "ew", "new", "dest", "idest"}
    visible = [learned.tokens[t] for t in range(len(learned.tokens)) if t not in learned.scaffolds]
    assert visible[10:] == ["low", "newest", "widest", "er", "lower"]


def random_words(seed):
    rng = random.Random(seed)
    alphabet = "abcdefgh"[: rng.randint(2, 8)]
    words = {}
    for _ in range(rng.randint(1, 12)):
        word = "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 9)))
        words[word] = rng.choice((1, 1, 2, 3, 5, 11))
    return words, alphabet


def test_agrees_with_a_full_recount_on_1500_random_corpora():
    events = Counter()
    for seed in range(1500):
        words, alphabet = random_words(seed)
        size = len(alphabet) + random.Random(seed).randint(0, 14)
        min_frequency = 1 if seed % 3 else 2
        tokens, merges, scaffolds, happened, counts = recount(words, len(alphabet), alphabet, size, min_frequency)
        learned = learn(words, alphabet, size, min_frequency=min_frequency)
        assert learned.tokens == tokens, seed
        assert learned.merges == merges, seed
        assert learned.scaffolds == scaffolds, seed
        assert learned.frequencies == counts, seed
        events.update(kind for kind, _ in happened)
    # The corpora reach every branch often enough to mean something.
    assert events["marked"] > 2000
    assert events["readmitted"] > 800


def covers(learned, token):
    """Every cover of a token by vocabulary tokens along recorded merges."""
    if token not in learned.scaffolds:
        return [[token]]
    parents = [(a, b) for a, b, t in learned.merges if t == token]
    return [left + right for a, b in parents for left in covers(learned, a) for right in covers(learned, b)]


def test_a_scaffold_expands_to_its_shortest_cover_of_smallest_ids():
    for seed in range(200):
        words, alphabet = random_words(seed)
        learned = learn(words, alphabet, len(alphabet) + 8)
        table = expansions(learned)
        assert set(table) == learned.scaffolds
        for token, cover in table.items():
            options = covers(learned, token)
            assert cover == min(options, key=lambda each: (len(each), each))
            assert "".join(learned.tokens[part] for part in cover) == learned.tokens[token]


def test_of_two_ways_to_a_scaffold_the_shorter_cover_wins_and_smaller_ids_break_ties():
    merges = [(0, 1, 3), (1, 2, 4), (0, 4, 5), (3, 2, 5)]
    tokens = ["a", "b", "c", "ab", "bc", "abc"]
    assert expansions(Learned(tokens, merges, {4, 5}, []))[5] == [3, 2]
    assert expansions(Learned(tokens, merges, {3, 5}, []))[5] == [0, 4]
    assert expansions(Learned(tokens, merges, {5}, []))[5] == [0, 4]


def test_bytes_and_special_tokens_are_never_scaffolds():
    for seed in range(100):
        words, alphabet = random_words(seed)
        learned = learn(words, alphabet, len(alphabet) + 9, special_tokens=["<special>"])
        assert all(token > len(alphabet) for token in learned.scaffolds)


def test_a_pair_that_spells_a_special_token_is_never_merged():
    learned = learn({"abab": 5, "ab": 9, "cab": 2}, "abc", 8, special_tokens=["ab"])
    assert learned.tokens == ["ab", "a", "b", "c", "ba", "aba", "abab", "ca", "cab"]
    assert learned.frequencies[0] == 0


def test_without_scaffolding_it_is_bpe_and_every_token_is_visible():
    learned = learn({"ban": 3, "abc": 11, "bcd": 1}, "abcdn", 9, scaffolding=False)
    assert strings(learned) == [("b", "c"), ("a", "bc"), ("a", "n"), ("b", "an")]
    assert not learned.scaffolds


def test_it_stops_short_when_no_pair_is_left_or_frequent_enough():
    assert learn({"ab": 3, "cd": 1}, "abcd", 100).vocab_size == 6
    assert learn({"ab": 3, "cd": 1}, "abcd", 100, min_frequency=2).merges == [(0, 1, 4)]
    assert learn({}, "abcd", 100).vocab_size == 4


@pytest.mark.parametrize("word", ["aaa", "aaaa", "aaaaa", "abab", "ababab", "aabaab"])
def test_overlapping_and_repeated_pairs_are_replaced_left_to_right(word):
    tokens, merges, scaffolds, _, counts = recount({word: 2}, 2, "ab", 6)
    learned = learn({word: 2}, "ab", 6)
    assert (learned.tokens, learned.merges, learned.scaffolds) == (tokens, merges, scaffolds)
    assert learned.frequencies == counts
