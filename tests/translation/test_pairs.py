"""Parallel text as pairs and as a corpus, and its faults."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from pipelines.data.corpus import read_documents
from pipelines.runs.errors import RetraceError
from pipelines.translation.pairs import read_pairs


def test_pairs_are_in_order_and_the_corpus_has_both_sides_of_them(pairs: Path, folder: Path) -> None:
    for split, stem in (("train", "train"), ("validation", "val"), ("test", "test_2016_flickr")):
        sides = [(folder / f"{stem}.{language}").read_text(encoding="utf-8").splitlines() for language in ("en", "de")]
        assert read_pairs(pairs, split) == list(zip(*sides, strict=True))
    documents = list(read_documents(pairs, "train"))
    assert [(each.domain, each.text) for each in documents[:2]] == [
        ("en", "the dog sees the ball ."),
        ("de", "der hund sieht den ball ."),
    ]
    assert len(documents) == 2 * len(read_pairs(pairs, "train"))
    assert not (pairs / "test.jsonl").exists(), "no tokenizer may learn from test sentences"


def test_compressed_files_limits_and_untranslated_lines(folder: Path, run_verb, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in folder.iterdir():
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    lines = (folder / "train.en").read_text(encoding="utf-8").splitlines()
    # A separator that Python's splitlines takes for the end of a line, and a line without its translation.
    lines[0], lines[1] = "the dog\u2028sees the ball .", ""
    (packed / "train.en.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    counts = run_verb("pairs", {"max_train": 3, "max_test": 2}, tmp_path / "out", folder=packed)
    assert (counts["num_train_pairs"], counts["num_test_pairs"]) == (3, 2)
    assert [source for source, _ in read_pairs(tmp_path / "out", "train")] == [lines[0], *lines[2:4]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("val.de", None, "has no val.de and no val.de.gz"),
        ("val.de", b"zu wenig\n", r"val.en has 8 lines and val.de 1: line n of one must be the translation"),
        ("train.en", b"caf\xe9\n", r"train.en: not UTF-8 at byte 3"),
        ("test_2016_flickr.en", b"\n" * 10, "test_2016_flickr.en has no sentence that has a translation"),
    ],
)
def test_faulty_text_is_refused_by_name(folder: Path, run_verb, tmp_path: Path, name: str, content, said: str) -> None:
    shutil.copytree(folder, tmp_path / "folder")
    (tmp_path / "folder" / name).unlink()
    if content is not None:
        (tmp_path / "folder" / name).write_bytes(content)
    with pytest.raises(RetraceError, match=said):
        run_verb("pairs", {}, tmp_path / "out", folder=tmp_path / "folder")
    assert not (tmp_path / "out").exists()


def test_a_cut_gzip_file_and_one_language_twice_are_refused(folder: Path, run_verb, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "folder")
    (tmp_path / "folder" / "val.de.gz").write_bytes(gzip.compress((folder / "val.de").read_bytes())[:-12])
    (tmp_path / "folder" / "val.de").unlink()
    with pytest.raises(RetraceError, match=r"val.de.gz: not a whole gzip file"):
        run_verb("pairs", {}, tmp_path / "out", folder=tmp_path / "folder")
    with pytest.raises(RetraceError, match="source and target are both 'de'"):
        run_verb("pairs", {"source": "de"}, tmp_path / "out", folder=folder)
