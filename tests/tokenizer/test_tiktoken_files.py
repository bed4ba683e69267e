"""Exported files give tiktoken the same ids, and damaged ones are named."""

import base64
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from tokenizers import normalizers

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.folder import TOKENIZER, read_tokenizer
from pipelines.tokenizer.loading import load_tokenizer
from pipelines.tokenizer.tiktoken_files import RANKS, SETTINGS, export_tiktoken, load_tiktoken

METHODS = ["bpe", "scaffold_bpe"]


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiktoken")

    def export(method):
        if not (folder / method).exists():
            export_tiktoken(trained(method), folder / method)
        return folder / method

    return export


@pytest.mark.parametrize("method", METHODS)
def test_ids_on_real_text_are_those_of_the_exported_tokenizer(trained, exported, texts, method):
    ours, theirs = load_tokenizer(trained(method)), load_tiktoken(exported(method))
    assert theirs.vocab_size == ours.vocab_size == 1024
    for mine, its in zip(ours.encode_batch(texts), theirs.encode_batch(texts), strict=True):
        assert np.array_equal(mine, its)
    assert theirs.encode(texts[0]) == ours.encode(texts[0])
    assert theirs.token_bytes == ours.token_bytes
    assert [theirs.token(i) for i in range(1024)] == [ours.token(i) for i in range(1024)]


def test_real_novels_and_medical_answers_too(trained, exported, shared_data):
    ours, theirs = load_tokenizer(trained("scaffold_bpe")), load_tiktoken(exported("scaffold_bpe"))
    texts = [path.read_text(encoding="utf-8") for path in sorted(shared_data.glob("text/*.txt"))]
    texts += (shared_data / "text" / "medquad.jsonl").read_text(encoding="utf-8").splitlines()[:500]
    for mine, its in zip(ours.encode_batch(texts), theirs.encode_batch(texts), strict=True):
        assert np.array_equal(mine, its)


@pytest.mark.parametrize("method", METHODS)
def test_any_bytes_come_back(exported, method):
    loaded = load_tiktoken(exported(method))

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=30) | st.text(max_size=30).map(str.encode))
    def back(data):
        assert loaded.decode_bytes(loaded.encode_bytes(data)) == data

    back()


def test_the_rank_file_is_what_tiktoken_itself_reads(trained, exported, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    ranks = load_tiktoken_bpe(str(exported("bpe") / RANKS))
    assert ranks == load_tiktoken(exported("bpe")).encoding._mergeable_ranks
    merges = json.loads((trained("bpe") / TOKENIZER).read_text(encoding="utf-8"))["model"]["merges"]
    assert len(ranks) == 256 + len(merges)


def test_a_tokenizer_that_tiktoken_cannot_say_is_refused(trained, tmp_path):
    folder = shutil.copytree(trained("bpe"), tmp_path / "other")
    tokenizer, _ = read_tokenizer(folder)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.save(str(folder / TOKENIZER))
    with pytest.raises(RetraceError, match="no normalizer"):
        export_tiktoken(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def without_a_line(data):
    return b"\n".join(data.splitlines()[:-1])


DAMAGES = {
    "gone": (RANKS, None, "No such file"),
    "short": (RANKS, without_a_line, "tokens, and tiktoken.json names"),
    "cut": (RANKS, lambda data: data[:-5], "is damaged"),
    "letters": (RANKS, lambda data: b"!!!" + data, "is damaged"),
    "swapped": (RANKS, lambda data: b"\n".join(reversed(data.splitlines())), "has rank"),
    "json": (SETTINGS, lambda data: data[:100], "is damaged"),
    "keys": (SETTINGS, lambda data: b"{}", "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_named(exported, tmp_path, damage):
    folder = shutil.copytree(exported("scaffold_bpe"), tmp_path / "broken")
    name, change, says = DAMAGES[damage]
    if change is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(RetraceError, match=says) as refused:
        load_tiktoken(folder)
    assert str(folder / name) in str(refused.value)


def test_lines_are_base64_and_a_rank(exported):
    first = (exported("bpe") / RANKS).read_bytes().splitlines()[0]
    assert first == base64.b64encode(b"!") + b" 0"
