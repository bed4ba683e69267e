"""A small corpus of made-up prose, and models of the harness that know the answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.job import Job
from pipelines.runs.verb import Execution

NOUNS = [
    "anchor",
    "basket",
    "candle",
    "dragon",
    "engine",
    "falcon",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "lantern",
    "market",
    "needle",
    "orchard",
    "parcel",
    "quarry",
    "ribbon",
    "saddle",
    "tunnel",
    "umbrella",
    "valley",
    "window",
    "yellowhammer",
    "zeppelin",
    "bridge",
    "castle",
    "desert",
    "eagle",
    "forest",
]
VERBS = ["carries", "follows", "guards", "hides", "joins", "keeps", "moves", "opens", "paints", "repairs"]
ADJECTIVES = ["broken", "curious", "distant", "eager", "fragile", "gentle", "hollow", "narrow", "polished", "silent"]


def made_up_paragraph(draw: random.Random) -> str:
    """Three sentences; the last one ends in a noun of the first, as a cloze needs."""
    a, b, c, d, e = draw.sample(NOUNS, 5)
    u, v, w = draw.choices(VERBS, k=3)
    p, q, r = draw.choices(ADJECTIVES, k=3)
    return (
        f"The {p} {a} {u} every {b} of the {q} {c} in winter. "
        f"Each {d} near the {a} {v} the {r} {e} for a long time. "
        f"Nobody in the {p} {c} {w} the {e} without the {b}."
    )


def made_up_rows(modules: int, paragraphs: int, seed: int, prefix: str) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [
        {
            "text": "\n\n".join(made_up_paragraph(draw) for _ in range(paragraphs)),
            "id": f"{prefix}.module{number}",
            "domain": prefix,
        }
        for number in range(modules)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Path]:
    """``make_corpus(modules=12, paragraphs=8)``: a corpus folder with both splits."""

    def make(modules: int = 12, paragraphs: int = 8, train: list[dict[str, Any]] | None = None) -> Path:
        folder = tmp_path / f"corpus-{modules}-{paragraphs}"
        folder.mkdir()
        write_rows(folder / "validation.jsonl", made_up_rows(modules, paragraphs, 1, "held"))
        write_rows(folder / "train.jsonl", made_up_rows(4, 4, 2, "train") if train is None else train)
        return folder

    return make


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[[str], Job]:
    """``make_job("name")``: a job whose out folder exists."""

    def make(name: str) -> Job:
        out = tmp_path / name
        out.mkdir()
        return Job(out, f"key-{name}", Execution())

    return make
