"""Every kind of input trains the same tokenizer, and each fault of an input is said or refused."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.runs.job import read_record
from pipelines.runs.methods import list_methods, resolve_method
from pipelines.tokenizer.from_iterator import train_from_iterator
from pipelines.tokenizer.loading import load_tokenizer
from pipelines.tokenizer.patterns import PATTERNS, pattern_of
from pipelines.tokenizer.protocol import to_symbols
from pipelines.tokenizer.spec import TokenizerSpec
from pipelines.tokenizer.train import learn_vocabulary
from pipelines.tokenizer.words import make_words

SPEC = {"method": "scaffold_bpe", "vocab_size": 700}
FILES = ("tokenizer.json", "scaffold.json")


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texts) -> Path:
    """Some of the texts as JSON lines and as a text file."""
    folder = tmp_path_factory.mktemp("inputs")
    lines = "".join(json.dumps({"body": text}) + "\n" for text in texts[:20])
    (folder / "a.jsonl").write_text(lines, encoding="utf-8")
    (folder / "b.txt").write_text(texts[20], encoding="utf-8")
    (folder / "c.txt").write_text(texts[21], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def from_files(folder, run_verb, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "t"
    run_verb("train", {**SPEC, "text_field": "body"}, out, input=[folder])
    return out


def test_files_and_texts_in_memory_make_the_same_tokenizer(from_files, texts, tmp_path):
    learned = train_from_iterator(iter(texts[:22]), tmp_path / "t", **SPEC)
    assert contents(tmp_path / "t") == contents(from_files)
    assert learned.vocab_size == 700
    as_bytes = train_from_iterator([text.encode() for text in texts[:22]], tmp_path / "bytes", threads=1, **SPEC)
    assert as_bytes == learned
    with pytest.raises(RetraceError, match="exists: remove it"):
        train_from_iterator(texts, tmp_path / "t", **SPEC)


@pytest.mark.parametrize("method", ["bpe", "scaffold_bpe", "picky_bpe"])
def test_the_order_of_documents_changes_nothing(method, texts, tmp_path):
    spec = {"method": method, "vocab_size": 700}
    shuffled = random.Random(0).sample(texts[:60], 60)
    assert shuffled != texts[:60]
    train_from_iterator(texts[:60], tmp_path / "in_order", **spec)
    for threads in (1, 2):
        train_from_iterator(shuffled, tmp_path / f"shuffled{threads}", threads=threads, **spec)
        for file in (tmp_path / "in_order").iterdir():
            assert (tmp_path / f"shuffled{threads}" / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_side_file_lists_merges_scaffolds_and_frequencies_as_learned(from_files):
    body = json.loads((from_files / "scaffold.json").read_text(encoding="utf-8"))
    merges = [(left, right) for left, right in body["merges"]]
    assert len(set(merges)) == len(merges)
    made = [left + right for left, right in merges]
    alphabet = {to_symbols(bytes([byte])) for byte in range(256)}
    known = alphabet | set(made)
    for place, (left, right) in enumerate(merges):
        assert {left, right} <= alphabet | set(made[:place]), "parts are learned before the whole"
    scaffolds = body["scaffold_tokens"]
    assert scaffolds
    assert len(set(scaffolds)) == len(scaffolds)
    assert set(scaffolds) <= set(made)
    assert set(body["frequencies"]) <= known | {"<|endoftext|>"}
    assert set(body["frequencies"]) >= set(made)


def test_tables_of_parts_make_the_tokenizer_of_the_whole(from_files, folder, run_verb, tmp_path):
    for part in ("a.jsonl", "b.txt", "c.txt"):
        final = run_verb("count", {"text_field": "body"}, tmp_path / part, input=[folder / part])
        assert final["num_words"] > final["num_distinct_words"] > 0
    tables = [tmp_path / "c.txt" / "words.tsv", tmp_path / "a.jsonl", tmp_path / "b.txt"]
    run_verb("train", SPEC, tmp_path / "t", words=tables)
    assert contents(tmp_path / "t") == contents(from_files)
    record = read_record(from_files)
    assert record["num_words"] == sum(
        read_record(tmp_path / part)["num_words"] for part in ("a.jsonl", "b.txt", "c.txt")
    )


def test_threads_change_nothing(from_files, folder, run_cli, tmp_path):
    for threads in (1, 3):
        run_cli(
            "tokenizer", "train", "--input", folder, "--out", tmp_path / str(threads),
            spec={**SPEC, "text_field": "body"}, execution={"threads": threads},
        )  # fmt: skip
        assert contents(tmp_path / str(threads)) == contents(from_files)


def test_one_kind_of_input_is_asked_for(run_verb, folder, tmp_path):
    with pytest.raises(RetraceError, match="give one of --corpus, --input, --words; there is none"):
        run_verb("train", SPEC, tmp_path / "t")
    with pytest.raises(RetraceError, match="there is --corpus and --input"):
        run_verb("train", SPEC, tmp_path / "t", corpus=folder, input=[folder])


def test_bytes_that_are_not_utf_8_are_said_and_recorded(run_verb, tmp_path, capsys):
    (tmp_path / "text.txt").write_bytes(b"caf\xe9 caf\xe9 na\xefve good " * 10)
    run_verb("train", {"vocab_size": 300}, tmp_path / "t", input=[tmp_path / "text.txt"])
    said = capsys.readouterr().err
    assert f"warning: 30 sequences of bytes are not UTF-8, the first in {tmp_path / 'text.txt'}" in said
    assert "count words: 0.00021 megabytes in" in said
    assert "learn: 269 tokens in" in said
    assert read_record(tmp_path / "t")["invalid_utf8_sequences"] == 30
    assert "�" in load_tokenizer(tmp_path / "t").decode(load_tokenizer(tmp_path / "t").encode("caf\ufffd"))


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_files_without_text_are_refused(run_verb, tmp_path, content):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(RetraceError, match=r"text\.txt has no text to learn a tokenizer from"):
        run_verb("train", {}, tmp_path / "t", input=[tmp_path / "text.txt"])


def test_a_table_of_another_pattern_is_refused(run_verb, folder, tmp_path):
    run_verb("count", {"pattern": "whitespace"}, tmp_path / "words", input=[folder / "b.txt"])
    with pytest.raises(RetraceError, match="was counted with pattern 'whitespace': count it with 'gpt2'"):
        run_verb("train", {}, tmp_path / "t", words=[tmp_path / "words"])
    own = tmp_path / "own.tsv"
    own.write_text("ok\t3\nnot-one\t2\n", encoding="utf-8")
    with pytest.raises(RetraceError, match=r"own\.tsv: pattern 'gpt2' splits 'not-one', so it is no word"):
        run_verb("train", {}, tmp_path / "t", words=[own])
    assert run_verb("train", {"pattern": "whitespace"}, tmp_path / "t", words=[own])["vocab_size"] > 257


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_is_the_one_the_tokenizer_splits_with(run_verb, folder, tmp_path, pattern, texts):
    run_verb("train", {**SPEC, "pattern": pattern, "vocab_size": 400}, tmp_path / "t", input=[folder / "b.txt"])
    tokenizer = load_tokenizer(tmp_path / "t")
    assert pattern_of(tokenizer.encoder) == pattern
    assert tokenizer.decode(tokenizer.encode(texts[20])) == texts[20]
    # What was counted in training is what encoding the same text gives.
    frequencies = json.loads((tmp_path / "t" / "scaffold.json").read_text(encoding="utf-8"))["frequencies"]
    text = texts[20].splitlines(keepends=True) if pattern == "none" else [texts[20]]
    ids = [i for encoded in tokenizer.encode_batch_with_scaffolds(text) for i in encoded.tolist()]
    assert {token: ids.count(i) for token, i in tokenizer.encoder.get_vocab().items()} == frequencies


@pytest.mark.parametrize("token", ["!", "Ġ"])
def test_a_special_token_that_is_a_byte_of_text_is_refused(run_verb, folder, tmp_path, token):
    with pytest.raises(RetraceError, match="special_tokens must have more than one character"):
        run_verb("train", {"special_tokens": ["<|endoftext|>", token]}, tmp_path / "t", input=[folder])


def test_text_cannot_spell_a_special_token(run_verb, tmp_path):
    (tmp_path / "text.txt").write_text("say <|endoftext|> again " * 50, encoding="utf-8")
    spec = {**SPEC, "pattern": "none"}
    run_verb("train", spec, tmp_path / "t", input=[tmp_path / "text.txt"])
    tokenizer = load_tokenizer(tmp_path / "t")
    assert tokenizer.eod_id not in tokenizer.encode("<|endoftext|>")
    assert tokenizer.decode(tokenizer.encode("say <|endoftext|>")) == "say <|endoftext|>"


@pytest.mark.parametrize("method", list_methods("tokenizer"))
@pytest.mark.parametrize("kind", ["one letter", "letters at random", "a text without end"])
def test_a_megabyte_without_a_break_takes_time_in_proportion(kind, method):
    rng = random.Random(0)
    period = bytes(rng.choices(range(97, 123), k=600))
    seconds = []
    for size in (1 << 17, 1 << 20):
        endless = {
            "one letter": b"x" * size,
            "letters at random": bytes(rng.choices(range(97, 123), k=size)),
            "a text without end": (period * (size // len(period) + 1))[:size],
        }[kind]
        started = time.process_time()
        learned = learn_vocabulary(
            make_words({endless: 1}), TokenizerSpec(method=resolve_method("tokenizer", method), vocab_size=4096)
        )
        seconds.append(time.process_time() - started)
        assert sum(len(token) * learned.frequencies[token] for token in learned.tokens) == size
    # 8 times the text; were it quadratic, 64 times the seconds.
    assert seconds[1] < 24 * max(seconds[0], 0.05)


def test_memory_does_not_grow_with_the_text(run_cli, texts, tmp_path):
    peaks = []
    megabyte = "\n".join(texts).encode()[:1_000_000].decode(errors="ignore").encode()
    for times in (2, 60):
        (tmp_path / "text.txt").write_bytes(megabyte * times)
        out = tmp_path / str(times)
        run_cli("tokenizer", "train", "--input", tmp_path / "text.txt", "--out", out, spec=SPEC)
        assert read_record(out)["num_words"] > 100_000 * times
        peaks.append(read_record(out)["peak_memory_bytes"])
    # 58 MB more text; how many blocks wait at a time differs a little from run to run.
    assert peaks[1] < peaks[0] + 20_000_000
