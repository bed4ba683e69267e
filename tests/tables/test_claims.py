from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.runs.job import Job
from pipelines.tables.claims import claims, decide, difference_text
from pipelines.tables.spec import ClaimSpec, ClaimsSpec

MakeJob = Callable[[str], Job]
Numbers = list[float | None]


def claim(**values: Any) -> ClaimSpec:
    base = {"paper": "p", "id": "c", "says": "a beats b", "where": "Figure 1", "table": "t", "better": "a", "than": "b"}
    return ClaimSpec.model_validate({**base, "metric": "val_loss", **values})


def paper(metric: str = "val_loss", **rows: Numbers) -> dict[str, Any]:
    values = {row: {metric: {str(seed): v for seed, v in enumerate(numbers)}} for row, numbers in rows.items()}
    return {"paper": "p", "tables": {"t": {"values": values}}}


@pytest.mark.parametrize(
    ("metric", "a", "b", "verdict"),
    [
        ("val_loss", [1.0, 1.1, 1.2], [2.0, 2.1, 2.3], "reproduced"),
        ("val_loss", [2.0, 2.1, 2.3], [1.0, 1.1, 1.2], "contradicted"),
        ("average_accuracy", [0.7, 0.8], [0.5, 0.6], "reproduced"),
        ("average_accuracy", [0.5, 0.6], [0.7, 0.81], "contradicted"),
        ("val_loss", [1.0, 1.0, 1.0], [1.1, 3.0, 1.0], "trend"),
        ("val_loss", [1.1, 3.0, 1.0], [1.0, 1.0, 1.0], "inconclusive"),
        ("val_loss", [1.0, 2.0], [1.0, 2.0], "inconclusive"),
        ("val_loss", [1.0], [2.0], "inconclusive"),
    ],
)
def test_the_direction_of_the_metric_decides(metric: str, a: Numbers, b: Numbers, verdict: str) -> None:
    assert decide(claim(metric=metric), paper(metric, a=a, b=b)).verdict == verdict


def test_pairing_by_seed_finds_a_small_steady_gain_that_pooling_would_miss() -> None:
    decision = decide(claim(), paper(a=[1.00, 5.00, 9.00], b=[1.01, 5.01, 9.011]))
    assert decision.verdict == "reproduced"
    assert decision.interval is not None
    assert decision.interval.mean == pytest.approx(-0.0103333, abs=1e-6)


def test_the_interval_is_of_better_minus_than_in_the_shown_unit() -> None:
    decision = decide(claim(metric="average_accuracy"), paper("average_accuracy", a=[0.52, 0.53, 0.54], b=[0.5] * 3))
    assert decision.interval is not None
    # Differences of 2, 3 and 4 points: mean 3, sd 1.
    assert (decision.interval.mean, decision.interval.low) == pytest.approx((3.0, 3 - 4.302653 / 3**0.5), abs=1e-5)
    assert difference_text(decision) == "+3.00 [+0.52, +5.48] points (3)"


def test_a_row_may_be_held_against_a_number() -> None:
    decision = decide(claim(metric="speedup", than=0), paper("speedup", a=[0.5, 0.51, 0.52]))
    assert decision.verdict == "reproduced"
    assert decide(claim(metric="speedup", than=1), paper("speedup", a=[0.5, 0.51, 0.52])).verdict == "contradicted"


def test_an_undefined_seed_is_inconclusive_and_not_left_out() -> None:
    decision = decide(claim(metric="speedup", than=0), paper("speedup", a=[0.5, None, 0.52]))
    assert (decision.verdict, decision.detail) == ("inconclusive", "speedup is undefined for seed 1 of 0, 1, 2")


@pytest.mark.parametrize(
    ("record", "detail"),
    [
        (None, "no val_loss of a"),
        ({"paper": "p", "tables": {}}, "no val_loss of a"),
        (paper(a=[1.0, 2.0]), "no val_loss of b"),
        (paper("train_loss", a=[1.0], b=[2.0]), "no val_loss of a"),
    ],
)
def test_what_was_not_run_says_so(record: dict[str, Any] | None, detail: str) -> None:
    decision = decide(claim(), record)
    assert (decision.verdict, decision.detail) == ("not run at this scale", detail)


def test_only_common_seeds_are_compared() -> None:
    record = paper(a=[1.0, 1.1, 5.0], b=[2.0, 2.1])
    decision = decide(claim(), record)
    assert decision.interval is not None
    assert decision.interval.n == 2
    record["tables"]["t"]["values"]["b"]["val_loss"] = {"8": 1.0}
    assert decide(claim(), record).detail == "the rows have no seed in common"


def test_a_metric_without_a_better_side_is_refused() -> None:
    with pytest.raises(RetraceError, match=r"claim p.c: metric num_parameters has no better side"):
        decide(claim(metric="num_parameters"), paper("num_parameters", a=[1.0], b=[2.0]))


def folder(tmp_path: Path, record: dict[str, Any]) -> Path:
    made = tmp_path / "tables" / record["paper"]
    made.mkdir(parents=True)
    (made / "cells.json").write_text(json.dumps(record), encoding="utf-8")
    return made


def test_the_files_hold_every_claim_in_order_and_are_byte_identical(tmp_path: Path, job: MakeJob) -> None:
    spec = ClaimsSpec(claims=(claim(), claim(id="d", says="a | b", table="other"), claim(paper="q", id="e")))
    inputs = {"paper": [folder(tmp_path, paper(a=[1.0, 1.1], b=[2.0, 2.1]))]}
    first, second = job("first"), job("second")
    counts = claims(spec, inputs, first)
    claims(spec, inputs, second)
    assert counts["num_reproduced"] == 1
    assert counts["num_not_run_at_this_scale"] == 2
    for name in ("claims.md", "claims.csv", "claims.html"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes()
    with (first.out / "claims.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["id"], line["verdict"]) for line in lines] == [
        ("c", "reproduced"),
        ("d", "not run at this scale"),
        ("e", "not run at this scale"),
    ]
    assert (lines[0]["difference"], lines[0]["n"]) == ("-1.0", "2")
    text = (first.out / "claims.md").read_text(encoding="utf-8")
    assert "95 % t interval" in text
    assert "validation loss: a - b" in text


def test_a_folder_without_cells_is_refused(tmp_path: Path, job: MakeJob) -> None:
    with pytest.raises(RetraceError, match=r"cells.json is missing: --paper takes a folder made by `tables build`"):
        claims(ClaimsSpec(claims=(claim(),)), {"paper": [tmp_path]}, job("out"))
