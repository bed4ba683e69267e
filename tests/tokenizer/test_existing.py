"""``tokenizer scaffolds``: held against merging step by step, against training, and run on GPT-2's own files."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.existing import Merges, end_of_falling_curve, read_existing, times_formed
from pipelines.tokenizer.folder import SCAFFOLD, TOKENIZER


def lines(folder):
    return [json.loads(line) for line in (folder / "scaffolds.jsonl").read_text(encoding="utf-8").splitlines()]


def step_by_step(tokenizer, text):
    """Times formed and left over of every token, by merging each word in the order of ranks."""
    model = json.loads(tokenizer.to_str())["model"]
    ranks = {tuple(pair): rank for rank, pair in reversed(list(enumerate(model["merges"])))}
    formed, left_over = Counter(), Counter()
    for word, _span in tokenizer.pre_tokenizer.pre_tokenize_str(text):
        tokens = list(word)
        formed.update(tokens)
        while pairs := [(ranks[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in ranks]:
            _rank, i = min(pairs)
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
            formed[tokens[i]] += 1
        left_over.update(tokens)
    return formed, left_over


@pytest.mark.parametrize("method", ["bpe", "scaffold_bpe"])
def test_counts_are_those_of_merging_step_by_step(run_verb, trained, texts, tmp_path, method):
    text = "\n".join(texts)[:60_000]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    final = run_verb(
        "scaffolds", {"head_frequency": 1e9}, tmp_path / "out", tokenizer=trained(method), input=[tmp_path / "text.txt"]
    )
    tokenizer = read_existing(trained(method))
    formed, left_over = step_by_step(tokenizer, text)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    children = {token for pair in merges for token in pair if len(token) > 1 and formed[token]}
    rows = lines(tmp_path / "out")
    assert {row["token"]: (row["frequency"], row["times_formed"]) for row in rows} == {
        token: (left_over[token], formed[token]) for token in children
    }
    assert final["num_tokens"] == sum(left_over.values())
    assert final["never_formed_tokens"] == sum(not formed[a + b] for a, b in merges)
    assert [row["times_formed"] for row in rows] == sorted((formed[token] for token in children), reverse=True)


def test_on_its_training_text_a_tokenizer_has_the_scaffolds_that_training_left(run_verb, trained, corpus, tmp_path):
    final = run_verb("scaffolds", {}, tmp_path / "out", tokenizer=trained("scaffold_bpe"), corpus=corpus)
    body = json.loads((trained("scaffold_bpe") / SCAFFOLD).read_text(encoding="utf-8"))
    found, trained_ones = {row["token"] for row in lines(tmp_path / "out")}, set(body["scaffold_tokens"])
    # Training stops between two values of the head, and what lies between them may be on either side.
    undecided = found ^ trained_ones
    assert len(undecided) <= 3
    assert all(body["frequencies"][token] <= final["head_frequency"] for token in undecided)
    assert len(found) > 50


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_the_end_of_the_falling_curve_is_that_of_pooling_neighbours_that_rise(values):
    blocks = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) <= np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    assert end_of_falling_curve(np.array(values)) == pytest.approx(np.mean(blocks[-1]))


def test_a_token_spelt_twice_counts_for_the_first_of_its_merges():
    # ids: a b c ab bc abc; abc is ab + c, and again a + bc.
    merges = Merges(*np.array([(0, 1, 3), (1, 2, 4), (3, 2, 5), (0, 4, 5)]).T)
    lengths = {0: 1, 1: 1, 2: 1, 3: 2, 4: 2, 5: 3}
    assert times_formed(np.array([1, 0, 0, 2, 0, 7]), merges, lengths).tolist() == [10, 9, 7, 9, 0, 7]


def test_gpt2_forms_tokens_that_real_novels_never_leave_over(run_verb, shared_data, tmp_path):
    final = run_verb(
        "scaffolds",
        {},
        tmp_path / "out",
        tokenizer=shared_data / "gpt2_tokenizer",
        input=[shared_data / "text" / "fiction", shared_data / "text" / "shakespeare.txt"],
    )
    assert final["vocab_size"] == 50257
    assert 0.03 < final["scaffold_share"] < 0.15
    rows = {row["text"]: row for row in lines(tmp_path / "out")}
    assert rows[" happ"]["mostly_becomes"] == "Ġhappy"
    assert rows[" contin"]["times_formed"] > 100 * rows[" contin"]["frequency"]
    assert not {" the", " and", "ing"} & set(rows)


def test_gpt2_words_are_encoded_as_the_library_encodes_them(shared_data):
    tokenizer = read_existing(shared_data / "gpt2_tokenizer")
    text = (shared_data / "text" / "shakespeare.txt").read_text(encoding="utf-8")[:20_000]
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("hello world").tokens == ["hello", "Ġworld"]


def test_a_tokenizer_with_another_pre_tokenizer_is_counted_by_the_library(run_verb, tmp_path):
    vocabulary = {token: place for place, token in enumerate(["l", "o", "w", "e", "r", "lo", "low", "er", "[UNK]"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("l", "o"), ("lo", "w"), ("e", "r")], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "t").mkdir()
    tokenizer.save(str(tmp_path / "t" / TOKENIZER))
    (tmp_path / "text.txt").write_text("low low lower, low\nlo low\n" * 5, encoding="utf-8")
    run_verb("scaffolds", {}, tmp_path / "out", tokenizer=tmp_path / "t", input=[tmp_path / "text.txt"])
    assert [(row["token"], row["frequency"], row["times_formed"]) for row in lines(tmp_path / "out")] == []
    run_verb(
        "scaffolds",
        {"head_frequency": 6},
        tmp_path / "more",
        tokenizer=tmp_path / "t",
        input=[tmp_path / "text.txt"],
    )
    assert [(row["token"], row["frequency"], row["times_formed"]) for row in lines(tmp_path / "more")] == [
        ("lo", 5, 30)
    ]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "neither tokenizer.json nor vocab.json"),
        ({"vocab.json": "{}"}, "neither tokenizer.json nor vocab.json"),
        ({"vocab.json": "{", "merges.txt": ""}, r"vocab\.json is damaged"),
        ({TOKENIZER: "{"}, r"tokenizer\.json is damaged"),
        ({TOKENIZER: Tokenizer(models.WordLevel({"a": 0}, "a")).to_str()}, "is a WordLevel, which merges nothing"),
    ],
)
def test_what_is_no_bpe_tokenizer_is_named(tmp_path, files, says):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(RetraceError, match=says):
        read_existing(tmp_path)
