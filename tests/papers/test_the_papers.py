from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.tables.reported import beside, read_reported
from workflow.schemas.paper import load_paper, load_papers

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ROOT / "papers"
KEYS = sorted(path.name for path in PAPERS.iterdir() if path.is_dir())


def test_every_folder_of_papers_is_a_paper() -> None:
    assert list(load_papers(PAPERS)) == KEYS
    assert {"chain", "gstack", "migu", "rmoe", "scaffold_bpe", "temporal_scaling"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_paper_claims_something_and_has_a_readme(key: str) -> None:
    paper = load_paper(PAPERS / key / "paper.yaml")
    assert paper.claims
    assert (PAPERS / key / "README.md").read_text(encoding="utf-8").startswith("# ")
    assert paper.arxiv is None or f"arXiv {paper.arxiv}" in (PAPERS / key / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", KEYS)
def test_every_table_has_the_seeds_an_interval_needs_and_a_one_sentence_caption(key: str) -> None:
    for table in load_paper(PAPERS / key / "paper.yaml").tables.values():
        assert len(table.seeds) >= 3
        assert table.caption.endswith(".")
        assert table.caption.count(".") == 1


@pytest.mark.parametrize("key", KEYS)
def test_reported_numbers_belong_to_tables_and_each_is_there_once(key: str) -> None:
    paper = load_paper(PAPERS / key / "paper.yaml")
    reported = read_reported(PAPERS / key / "reported.csv")
    assert {each.table for each in reported} <= set(paper.tables)
    places = [(each.table, each.row, each.column, each.where, each.known_by) for each in reported]
    assert len(set(places)) == len(places)
    assert bool(reported) == (paper.arxiv is not None)


@pytest.mark.parametrize(
    ("key", "table", "row", "column", "value", "where"),
    [
        ("gstack", "operators", "stack", "speedup", "49.1", "Figure 3"),
        ("gstack", "operators", "scratch", "train_loss", "2.204", "Figure 3"),
        ("rmoe", "routers", "rmoe", "val_bits_per_byte", "1.141", "Table 1"),
        ("rmoe", "routers", "topk", "val_bits_per_byte", "1.152", "Table 1"),
        ("migu", "full", "migu", "average_accuracy", "78.8", "Table 8"),
        ("migu", "lora", "ft", "average_accuracy", "67.9", "Table 8"),
        ("temporal_scaling", "forecast", "temporal_law", "forecast_error", "0.5", "no place known"),
        ("scaffold_bpe", "vocabulary", "scaffold_bpe", "scaffold_share", "6.07", "text"),
        ("scaffold_bpe", "language_modelling", "bpe", "val_bits_per_byte", "2.648", "report.html"),
    ],
)
def test_the_number_beside_our_column_is_the_papers_main_one(
    key: str, table: str, row: str, column: str, value: str, where: str
) -> None:
    rows = [each.name for each in load_paper(PAPERS / key / "paper.yaml").tables[table].rows]
    reported = [each for each in read_reported(PAPERS / key / "reported.csv") if each.table == table]
    found = beside(reported, rows, column)[row]
    assert (found.value, found.where) == (value, where)


@pytest.mark.parametrize("where", ["Table 8", "Figure 3"])
def test_means_the_papers_print_agree_with_the_numbers_they_are_of(where: str) -> None:
    """Averages recompute from their parts, up to the digit printed: a slip in copying would show."""
    if where == "Figure 3":
        parts = ["Lambada", "ARC-c", "ARC-e", "LogiQA", "PIQA", "SciQ", "Winogrande"]
        numbers = {
            (each.row, each.column.partition(",")[0]): float(each.value)
            for each in read_reported(PAPERS / "gstack" / "reported.csv")
            if each.where == where
        }
        rows = sorted({row for row, _ in numbers})
        assert len(rows) == 9
        means = {row: (numbers[row, "mean of 7 tasks"], [numbers[row, part] for part in parts]) for row in rows}
    else:
        numbers = {
            (f"{each.table} {each.row}", each.column.removeprefix("average accuracy, ")): float(each.value)
            for each in read_reported(PAPERS / "migu" / "reported.csv")
            if each.where == where
        }
        means = {
            f"{row}, {column}": (
                value,
                [numbers[row, f"order {k}"] for k in ((1, 2, 3) if "1" in column else (4, 5, 6))],
            )
            for (row, column), value in numbers.items()
            if column.startswith("orders") and (row, "order 1") in numbers
        }
        assert len(means) >= 20
    # Orders are themselves rounded to a tenth, and the paper truncates some means.
    tolerance = 0.006 if where == "Figure 3" else 0.11
    # A slip in print, which reported.csv notes.
    means.pop("full ft, orders 4-6", None)
    for row, (mean, each) in means.items():
        assert mean == pytest.approx(sum(each) / len(each), abs=tolerance), row


def test_a_slip_in_print_is_noted_beside_its_number() -> None:
    slips = [
        each.note
        for each in read_reported(PAPERS / "migu" / "reported.csv")
        if (each.table, each.row, each.column, each.where) == ("full", "ft", "average accuracy, orders 4-6", "Table 8")
    ]
    assert len(slips) == 1
    assert f"average {(70.6 + 69.7 + 65.6) / 3:.2f}" in slips[0]


def test_planning_with_the_schema_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "scipy", "matplotlib", "pandas")
    code = f"import sys, workflow.schemas.paper; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_captions_are_one_sentence_each() -> None:
    captions = sorted((ROOT / "workflow" / "report").glob("*.rst"))
    assert captions
    for path in captions:
        text = path.read_text(encoding="utf-8").strip()
        assert "\n" not in text, path.name
        assert text.endswith("."), path.name
