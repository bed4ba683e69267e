"""A corpus of real docstrings and tokenizers trained on it, made once a session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.job import read_metrics
from pipelines.runs.lifecycle import run_job
from pipelines.runs.verb import job_verb
from pipelines.tokenizer.counting import count_blocks
from pipelines.tokenizer.reading import InvalidText, text_blocks
from pipelines.tokenizer.words import Words

RunVerb = Callable[..., dict[str, Any]]


def run(verb: str, spec: dict[str, Any], out: Path, stage: str = "tokenizer", **inputs: Path) -> dict[str, Any]:
    run_job(stage, verb, job_verb(stage, verb), json.dumps(spec), "{}", inputs, out)
    return read_metrics(out)[-1]


@pytest.fixture(scope="session")
def run_verb() -> RunVerb:
    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    spec = {"packages": ["numpy", "scikit-learn"], "max_bytes": 1_000_000, "validation_fraction": 0.1}
    run("build", spec, out, stage="data")
    return out


@pytest.fixture(scope="session")
def texts(corpus) -> list[str]:
    lines = (corpus / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="session")
def words_of() -> Callable[..., Words]:
    """The words of texts."""

    def count(texts: list[str], pattern: str = "gpt2", threads: int = 2) -> Words:
        return count_blocks(text_blocks(texts, InvalidText()), pattern, threads)

    return count


@pytest.fixture(scope="session")
def embedded_texts(tmp_path_factory) -> list[str]:
    """6 MB of docstrings, as the default run has them."""
    out = tmp_path_factory.mktemp("embedded") / "corpus"
    run("build", {"max_bytes": 6_000_000, "validation_fraction": 0.05}, out, stage="data")
    lines = (out / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="session")
def fiction_texts(shared_data) -> list[str]:
    """Twelve novels and a play, in pieces of some hundred lines."""
    files = [*sorted((shared_data / "text" / "fiction").glob("*.txt")), shared_data / "text" / "shakespeare.txt"]
    return [piece for file in files for piece in file.read_text(encoding="utf-8").split("\n\n")]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, corpus) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("tokenizers")

    def train(method: str) -> Path:
        if not (folder / method).exists():
            run("train", {"method": method, "vocab_size": 1024}, folder / method, corpus=corpus)
        return folder / method

    return train


@pytest.fixture
def write_corpus(tmp_path) -> Callable[..., Path]:
    """A corpus folder of given texts."""

    def write(train: list[str], validation: list[str] | None = None) -> Path:
        folder = tmp_path / "small_corpus"
        folder.mkdir(exist_ok=True)
        for split, texts in (("train", train), ("validation", validation or train)):
            lines = [json.dumps({"text": t, "id": f"{split}{i}", "domain": "d"}) + "\n" for i, t in enumerate(texts)]
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        return folder

    return write
