"""Parallel text that no corpus holds: a small grammar in two languages, so that a tiny model has a rule to learn."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.job import read_metrics
from pipelines.runs.lifecycle import run_job
from pipelines.runs.verb import job_verb

WHO = {"the dog": "der hund", "a girl": "ein mädchen", "the man": "der mann", "an old cat": "eine alte katze"}
DOES = {"sees": "sieht", "paints": "malt", "likes": "mag", "carries": "trägt"}
WHAT = {"the ball": "den ball", "a house": "ein haus", "two trees": "zwei bäume", "some bread": "etwas brot"}

RunVerb = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def run_verb() -> RunVerb:
    """``run_verb("train", spec, out, pairs=..., execution={...})``; returns the final metrics."""

    def run(verb: str, spec: dict[str, Any], out: Path, execution: dict[str, Any] | None = None, **inputs: Path) -> Any:
        stage = "tokenizer" if verb == "tokenizer" else "translation"
        name = "train" if verb == "tokenizer" else verb
        run_job(stage, name, job_verb(stage, name), json.dumps(spec), json.dumps(execution or {}), inputs, out)
        return read_metrics(out)[-1]

    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 sentences and their translations; the test set is a part of them."""
    made = tmp_path_factory.mktemp("parallel")
    sentences = list(itertools.product(WHO.items(), DOES.items(), WHAT.items()))
    sides = [[" ".join(words[side] for words in each) + " ." for each in sentences] for side in (0, 1)]
    for language, lines in zip(("en", "de"), sides, strict=True):
        for stem, some in (("train", lines), ("val", lines[::9]), ("test_2016_flickr", lines[::7])):
            (made / f"{stem}.{language}").write_text("".join(f"{line}\n" for line in some), encoding="utf-8")
    return made


@pytest.fixture(scope="session")
def pairs(folder: Path, run_verb: RunVerb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifacts") / "pairs"
    run_verb("pairs", {}, out, folder=folder)
    return out


@pytest.fixture(scope="session")
def tokenizer(pairs: Path, run_verb: RunVerb) -> Path:
    out = pairs.parent / "tokenizer"
    run_verb("tokenizer", {"method": "scaffold_bpe", "vocab_size": 300}, out, corpus=pairs)
    return out
