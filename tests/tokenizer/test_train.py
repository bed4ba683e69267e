"""``tokenizer train``, ``tokenize`` and ``measure`` as jobs, with their refusals."""

import json

import numpy as np
import pytest

from pipelines.megatron.indexed import read_tokens
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import read_record
from pipelines.tokenizer.loading import load_tokenizer
from pipelines.tokenizer.measure import renyi_efficiency

METHODS = ["bpe", "scaffold_bpe"]


@pytest.mark.parametrize("method", METHODS)
def test_final_metrics_count_the_vocabulary(run_verb, corpus, tmp_path, method):
    final = run_verb("train", {"method": method, "vocab_size": 600}, tmp_path / "t", corpus=corpus)
    tokenizer = load_tokenizer(tmp_path / "t")
    assert final["vocab_size"] == tokenizer.vocab_size == 600
    assert final["num_tokens_expanded"] == tokenizer.num_tokens
    assert final["num_scaffold_tokens"] == tokenizer.num_tokens - 600
    assert final["scaffold_share"] == final["num_scaffold_tokens"] / 600
    assert (final["num_scaffold_tokens"] > 0) == (method == "scaffold_bpe")


@pytest.mark.parametrize("method", METHODS)
def test_a_vocabulary_smaller_than_its_alphabet_is_refused(run_verb, corpus, tmp_path, method):
    with pytest.raises(RetraceError, match=r"vocab_size 256 is smaller than the 256 bytes and 1 special tokens.* 257"):
        run_verb("train", {"method": method, "vocab_size": 256}, tmp_path / "t", corpus=corpus)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("method", METHODS)
def test_the_alphabet_alone_is_a_vocabulary(run_verb, corpus, tmp_path, method):
    assert run_verb("train", {"method": method, "vocab_size": 257}, tmp_path / "t", corpus=corpus)["vocab_size"] == 257
    assert load_tokenizer(tmp_path / "t").encode("é") == [128, 103]


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_a_corpus_without_text_is_refused(run_verb, write_corpus, tmp_path, texts):
    with pytest.raises(RetraceError, match=r"train\.jsonl has no text"):
        run_verb("train", {}, tmp_path / "t", corpus=write_corpus(texts))


def test_what_is_no_corpus_is_named(run_verb, tmp_path):
    with pytest.raises(RetraceError, match=r"train\.jsonl is missing: make the corpus"):
        run_verb("train", {}, tmp_path / "t", corpus=tmp_path)
    (tmp_path / "train.jsonl").write_text('{"text": "a", "id": "b", "domain": "c"}\n{"text": "a"\n', encoding="utf-8")
    with pytest.raises(RetraceError, match=r"train\.jsonl:2 is not JSON"):
        run_verb("train", {}, tmp_path / "t", corpus=tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_too_little_text_warns_stops_short_and_says_so_in_the_record(run_verb, write_corpus, tmp_path, capsys, method):
    final = run_verb("train", {"method": method}, tmp_path / "t", corpus=write_corpus(["abab abab abc"]))
    assert 257 < final["vocab_size"] < 270
    assert "the vocabulary stops at" in capsys.readouterr().err
    record = read_record(tmp_path / "t")
    assert (record["vocab_size_asked"], record["vocab_size_reached"]) == (2048, final["vocab_size"])
    tokenizer = load_tokenizer(tmp_path / "t")
    assert tokenizer.decode(tokenizer.encode("abab xyz")) == "abab xyz"


@pytest.mark.parametrize("method", METHODS)
def test_min_frequency_keeps_rare_pairs_out(run_verb, write_corpus, tmp_path, method):
    corpus = write_corpus(["ab ab ab xy"])
    final = run_verb("train", {"method": method, "min_frequency": 2}, tmp_path / "t", corpus=corpus)
    tokens = load_tokenizer(tmp_path / "t").encoder.get_vocab()
    assert "ab" in tokens
    assert "xy" not in tokens
    assert final["vocab_size"] == 259 - final["num_scaffold_tokens"]


@pytest.mark.parametrize(
    ("special_tokens", "message"),
    [(["<pad>"], r"must contain <\|endoftext\|>"), (["<|endoftext|>", "<|endoftext|>"], "must be distinct")],
)
def test_special_tokens_are_checked(run_verb, corpus, tmp_path, special_tokens, message):
    with pytest.raises(RetraceError, match=message):
        run_verb("train", {"special_tokens": special_tokens}, tmp_path / "t", corpus=corpus)


@pytest.mark.parametrize("method", METHODS)
def test_further_special_tokens_get_the_first_ids(run_verb, corpus, tmp_path, method):
    spec = {"method": method, "vocab_size": 400, "special_tokens": ["<|endoftext|>", "<|user|>"]}
    run_verb("train", spec, tmp_path / "t", corpus=corpus)
    tokenizer = load_tokenizer(tmp_path / "t")
    assert (tokenizer.eod_id, tokenizer.encoder.token_to_id("<|user|>"), tokenizer.vocab_size) == (0, 1, 400)


@pytest.mark.parametrize("method", METHODS)
def test_token_files_hold_every_document_and_its_end(run_verb, trained, corpus, texts, tmp_path, method):
    final = run_verb("tokenize", {}, tmp_path / "tokens", corpus=corpus, tokenizer=trained(method))
    tokenizer = load_tokenizer(trained(method))
    body = json.loads((tmp_path / "tokens" / "tokens.json").read_text(encoding="utf-8"))
    assert (body["vocab_size"], body["eod_id"]) == (tokenizer.vocab_size, tokenizer.eod_id)
    assert body["tokenizer_key"] == read_record(trained(method))["key"]
    train = read_tokens(tmp_path / "tokens" / "train")
    split = body["splits"]["train"]
    assert (split["num_documents"], split["num_tokens"]) == (train.num_documents, train.num_tokens)
    assert split["num_bytes"] == sum(len(text.encode()) for text in texts)
    assert final["num_train_tokens"] == train.num_tokens
    for index, text in enumerate(texts):
        ids = train.document(index)
        assert ids[-1] == tokenizer.eod_id
        assert tokenizer.decode(ids[:-1]) == text
    validation = read_tokens(tmp_path / "tokens" / "validation")
    assert validation.num_documents == body["splits"]["validation"]["num_documents"] > 0


def test_threads_change_no_token_file(run_cli, trained, corpus, tmp_path):
    files = {}
    for threads in (1, 3):
        out = tmp_path / str(threads)
        run_cli(
            "tokenizer", "tokenize", "--corpus", corpus, "--tokenizer", trained("scaffold_bpe"), "--out", out,
            execution={"threads": threads},
        )  # fmt: skip
        names = ("train.bin", "train.idx", "validation.bin", "validation.idx", "tokens.json")
        files[threads] = [(out / name).read_bytes() for name in names]
    assert files[1] == files[3]


def test_memory_does_not_grow_with_the_corpus(run_cli, trained, texts, write_corpus, tmp_path):
    peaks = []
    for times in (3, 40):
        out = tmp_path / str(times)
        corpus = write_corpus(texts * times, texts[:1])
        run_cli("tokenizer", "tokenize", "--corpus", corpus, "--tokenizer", trained("scaffold_bpe"), "--out", out)
        record = read_record(out)
        assert (out / "train.bin").stat().st_size > 200_000 * times
        peaks.append(record["peak_memory_bytes"])
    # 35 MB more text; how many groups of texts wait at a time differs a little from run to run.
    assert peaks[1] < peaks[0] + 15_000_000


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\xff"'])
def test_a_corpus_that_is_not_utf_8_is_named(run_verb, trained, write_corpus, tmp_path, text):
    corpus = write_corpus(["a"])
    with (corpus / "train.jsonl").open("ab") as file:
        file.write(b'{"id": "b", "domain": "d", "text": %s}\n' % text)
    with pytest.raises(RetraceError, match=r"train\.jsonl is not UTF-8 .*build the corpus again"):
        run_verb("tokenize", {}, tmp_path / "tokens", corpus=corpus, tokenizer=trained("bpe"))
    assert not (tmp_path / "tokens").exists()


def test_measures_equal_their_definitions_counted_by_hand(run_verb, write_corpus, tmp_path):
    train, held_out = ["aaaa aaaa bb\n"], ["aaaa é <|endoftext|>"]
    corpus = write_corpus(train, held_out)
    run_verb("train", {"vocab_size": 260}, tmp_path / "t", corpus=corpus)
    final = run_verb("measure", {"rare_count": 1}, tmp_path / "m", corpus=corpus, tokenizer=tmp_path / "t")
    tokenizer = load_tokenizer(tmp_path / "t")
    ids, seen = tokenizer.encode(held_out[0]), tokenizer.encode(train[0])
    assert final["num_validation_tokens"] == len(ids)
    assert final["bytes_per_token"] == len(held_out[0].encode()) / len(ids)
    assert final["fertility"] == len(ids) / 3
    assert final["never_seen_tokens"] == 259 - len(set(seen))
    assert final["rare_tokens"] == 259 - sum(seen.count(i) > 1 for i in set(seen))
    assert final["mean_frequency"] == len(seen) / 259
    p = np.array([ids.count(i) for i in set(ids)]) / len(ids)
    assert final["renyi_efficiency"] == pytest.approx(np.log((p**2.5).sum()) / -1.5 / np.log(260))


def test_renyi_efficiency_is_one_for_even_use_and_nothing_for_one_token():
    assert renyi_efficiency(np.full(64, 7), 2.5) == pytest.approx(1)
    assert renyi_efficiency(np.array([5, 0, 0]), 2.5) == pytest.approx(0)


def test_scaffolds_leave_fewer_rare_tokens_than_bpe(run_verb, trained, corpus, tmp_path):
    measured = {
        method: run_verb("measure", {}, tmp_path / method, corpus=corpus, tokenizer=trained(method))
        for method in METHODS
    }
    assert measured["scaffold_bpe"]["never_seen_tokens"] <= measured["bpe"]["never_seen_tokens"]
    assert measured["scaffold_bpe"]["bytes_per_token"] > measured["bpe"]["bytes_per_token"]
