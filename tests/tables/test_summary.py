from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.tables.claims import FIELDS
from pipelines.tables.summary import lines


def results(tmp_path: Path, *claims: dict[str, str]) -> Path:
    chain = tmp_path / "tables" / "chain"
    chain.mkdir(parents=True)
    (chain / "chain.md").write_text("# The chain.\n\nsaid\n\n| a | b |\n| - | -: |\n", encoding="utf-8")
    with (tmp_path / "claims.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        writer.writeheader()
        writer.writerows(claims)
    return tmp_path


def test_the_summary_shows_the_chain_the_places_and_a_line_a_claim(tmp_path: Path) -> None:
    first = {"paper": "p", "verdict": "trend", "says": "a beats b", "metric": "speedup", "unit": "%"}
    first |= {"difference": "12.5", "low": "-1.0", "high": "26.0", "n": "3"}
    second = {"paper": "q", "verdict": "not run at this scale", "says": "c", "detail": "no val_loss of a", "n": "0"}
    said = lines(results(tmp_path, first, second))
    assert said[:3] == ["# The chain.", "| a | b |", "| - | -: |"]
    assert f"{tmp_path}/tables/<paper>/*.md (chain)" in said[4]
    assert said[5] == "trend                  p: a beats b (speedup +12.5 [-1, +26] %, n=3)"
    assert said[6] == "not run at this scale  q: c (no val_loss of a)"


def test_without_tables_the_summary_says_what_to_run(tmp_path: Path, run_cli: Any) -> None:
    with pytest.raises(RetraceError, match="snakemake --cores all paper_tables"):
        lines(tmp_path)
    done = run_cli("tables", "summary", "--results", tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
