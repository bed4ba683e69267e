"""Figures of a vocabulary, held against counting by hand."""

import json
from statistics import median

import numpy as np
import pytest

from pipelines.runs.job import read_metrics
from pipelines.tables.metrics import METRICS
from pipelines.tokenizer.folder import SCAFFOLD
from pipelines.tokenizer.loading import load_tokenizer
from pipelines.tokenizer.measure import visible_counts

METHODS = ["bpe", "scaffold_bpe", "picky_bpe"]


@pytest.fixture(scope="module")
def measured(trained, corpus, tmp_path_factory, run_verb):
    """Method -> folder of its measures, with the same corpus as the other one."""
    folder = tmp_path_factory.mktemp("measured")

    def measure(method):
        if not (folder / method).exists():
            run_verb("measure", {}, folder / method, tokenizer=trained(method), corpus=corpus, other=corpus)
        return folder / method

    return measure


@pytest.fixture(scope="module")
def raw_counts(trained, texts):
    """Occurrences of every token before scaffolds are taken apart."""
    loaded = load_tokenizer(trained("scaffold_bpe"))
    return np.bincount(np.concatenate(loaded.encode_batch_with_scaffolds(texts)), minlength=loaded.num_tokens)


def test_frequencies_are_those_that_training_counted(trained, measured, raw_counts):
    body = json.loads((trained("scaffold_bpe") / SCAFFOLD).read_text(encoding="utf-8"))
    scaffolds = [body["frequencies"][token] for token in body["scaffold_tokens"]]
    final = read_metrics(measured("scaffold_bpe"))[-1]
    assert final["median_scaffold_frequency"] == median(scaffolds)
    # The first id is the end of a document, which no text holds.
    assert final["median_visible_frequency"] == np.median(raw_counts[1:1024])
    assert final["taken_apart_share"] == sum(scaffolds) / raw_counts.sum()
    assert final["median_scaffold_frequency"] < final["median_visible_frequency"]


def test_counts_after_expansion_are_those_of_the_expanded_ids(trained, texts, raw_counts):
    loaded = load_tokenizer(trained("scaffold_bpe"))
    ids = np.concatenate(loaded.encode_batch(texts))
    assert np.array_equal(visible_counts(loaded, raw_counts), np.bincount(ids, minlength=loaded.vocab_size))


def test_curves_go_down_from_the_most_frequent_token(measured, raw_counts):
    lines = read_metrics(measured("scaffold_bpe"))[:-1]
    assert [lines[0]["rank"], lines[-1]["rank"]] == [1, 1023]
    for name, counts in (("visible_frequency", raw_counts[1:1024]), ("scaffold_frequency", raw_counts[1024:])):
        curve = {line["rank"]: line[name] for line in lines if name in line}
        expected = sorted(counts.tolist(), reverse=True)
        assert curve == {rank: expected[rank - 1] for rank in curve}
        assert len(curve) > 20
    assert not any("scaffold_frequency" in line for line in read_metrics(measured("bpe")))


@pytest.mark.parametrize("method", METHODS)
def test_another_corpus_is_measured_alike_and_every_figure_has_its_column(measured, method):
    final = read_metrics(measured(method))[-1]
    for name in ("bytes_per_token", "fertility", "renyi_efficiency"):
        assert final[f"out_of_domain_{name}"] == final[name]
    assert set(final) - {"final", "num_validation_tokens"} <= set(METRICS)
    assert ("median_scaffold_frequency" in final) == (method != "bpe")
