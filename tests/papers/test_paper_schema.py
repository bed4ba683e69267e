from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.runs.errors import RetraceError
from workflow.schemas.paper import Paper, load_paper

PAPER: dict[str, Any] = {
    "title": "A paper",
    "arxiv": "2405.15319",
    "tables": {
        "operators": {
            "caption": "Growth.",
            "stage": "growth",
            "rows": ["scratch", {"name": "grown", "method": "stack", "with": {"training.lr": 0.1}, "label": "Grown"}],
            "with": {"training.lr": 0.2, "seed_offset": 1},
            "columns": ["val_loss", "speedup"],
            "seeds": [0, 1, 2],
            "reference": "scratch",
        }
    },
    "plots": {"curves": {"table": "operators", "x": "flops", "y": "loss"}},
    "claims": [
        {
            "id": "grown_beats_scratch",
            "says": "it is better",
            "where": "Figure 3",
            "table": "operators",
            "better": "grown",
            "than": "scratch",
            "metric": "val_loss",
        }
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """PAPER with one dotted path set, or removed where the value is ``...``."""
    paper = copy.deepcopy(PAPER)
    *parents, last = path.split(".")
    place: Any = paper
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    key: Any = int(last) if last.isdigit() else last
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return paper


def write(tmp_path: Path, paper: dict[str, Any]) -> Path:
    path = tmp_path / "paper.yaml"
    path.write_text(yaml.safe_dump(paper, sort_keys=False), encoding="utf-8")
    return path


def test_a_bare_row_is_a_method_and_a_mapping_gives_it_settings(tmp_path: Path) -> None:
    table = load_paper(write(tmp_path, PAPER)).tables["operators"]
    scratch, grown = table.rows
    assert (scratch.name, scratch.method, table.stage_of(scratch)) == ("scratch", "scratch", "growth")
    assert (grown.name, grown.method, grown.label) == ("grown", "stack", "Grown")
    assert table.overrides(scratch) == {"training.lr": 0.2, "seed_offset": 1}
    assert table.overrides(grown) == {"training.lr": 0.1, "seed_offset": 1}


def test_a_claim_may_name_a_number(tmp_path: Path) -> None:
    paper = changed("claims.0.than", 0)
    paper["claims"][0]["metric"] = "speedup"
    assert load_paper(write(tmp_path, paper)).claims[0].than == 0


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (
            "tables.operators.colums",
            ["val_loss"],
            "tables.operators: unknown key colums; known: caption, needs, stage, rows, with",
        ),
        ("titel", "x", "unknown key titel; known: title, arxiv"),
        ("tables.operators.rows.1.methd", "stack", "tables.operators.rows.1: unknown key methd; known: name, method"),
        ("claims.0.lower_is_better", True, "claims.0: unknown key lower_is_better"),
        ("tables.operators.columns", ["val_los"], "unknown metric 'val_los'; known: vocab_size"),
        ("tables.operators.columns", [], "at least 1 item"),
        ("tables.operators.columns", ["val_loss", "val_loss"], "columns name val_loss twice"),
        ("tables.operators.seeds", [0, 0], "seeds name 0 twice"),
        ("tables.operators.seeds", [], "at least 1 item"),
        ("tables.operators.seeds", ["zero"], r"seeds.0: .*integer.*\(got 'zero'\)"),
        ("tables.operators.rows", ["scratch", "scratch"], "rows name scratch twice"),
        ("tables.operators.rows.1.from", "later", "row grown starts from 'later', which is no row above it"),
        ("tables.operators.rows.1.method", ..., "row grown: method is missing; methods of growth: "),
        ("tables.operators.rows.1.method", "stak", "row grown: growth has no method 'stak'; known: "),
        ("tables.operators.rows.0", "Scratch", "a name is lower case"),
        ("tables.operators.stage", ..., "row scratch has no stage"),
        ("tables.operators.stage", "grow", "tables.operators.stage: .*'growth'"),
        ("tables.operators.reference", "base", "reference 'base' is no row; rows: scratch, grown"),
        ("tables.operators.reference", ..., "column speedup compares with a row: say which, as reference"),
        (
            "tables.operators.columns",
            ["bits_per_byte_gain"],
            "compares with the row a row starts from: give rows a from",
        ),
        ("tables.operators.needs", "data", "tables.operators.needs: .*pattern"),
        ("tables.operators.smoothing_window", 0, "greater than or equal to 1"),
        ("plots.curves.table", "other", "plots.curves: no table 'other'; tables: operators"),
        ("plots.curves.rows", ["base"], "plots.curves: table operators has no row 'base'; rows: scratch, grown"),
        ("tables.operators.rows.1.against", "base", "reference 'base' is no row; rows: scratch, grown"),
        ("plots.curves.y", "accuracy", "plots.curves.y.0: .*'val_loss'"),
        ("claims.0.better", "base", "claim grown_beats_scratch: table operators has no row 'base'"),
        ("claims.0.than", "base", "table operators has no row 'base'; rows: scratch, grown"),
        ("claims.0.table", "other", "no table 'other'"),
        ("claims.0.metric", "train_loss", "table operators has no column 'train_loss'; columns: val_loss, speedup"),
        ("claims.0.metric", "num_parameters", "metric num_parameters has no better side; metrics with one: "),
        ("claims.0.metric", "*_acc", r"metric \*_acc is many columns: a claim is decided on one"),
        ("claims", [PAPER["claims"][0]] * 2, "claim grown_beats_scratch is there twice"),
        ("arxiv", 2405.15319, r"arxiv: .*string.*\(got 2405.15319\)"),
        ("tables", {}, "at least 1 item"),
        ("title", ..., "title: Field required"),
    ],
)
def test_a_wrong_paper_is_refused_with_file_key_and_remedy(tmp_path: Path, path: str, value: Any, fault: str) -> None:
    file = write(tmp_path, changed(path, value))
    with pytest.raises(RetraceError, match=fault) as refused:
        load_paper(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "paper.yaml"
    path.write_text("title: a\ntitle: b\n", encoding="utf-8")
    with pytest.raises(RetraceError, match=r"key title is there twice.*line 1"):
        load_paper(path)


@pytest.mark.parametrize("text", ["title: [", "- a\n- b\n", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "paper.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RetraceError, match=str(path)):
        load_paper(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RetraceError, match="no such file"):
        load_paper(tmp_path / "paper.yaml")


def test_a_paper_survives_a_round_trip() -> None:
    paper = Paper.model_validate(PAPER)
    assert Paper.model_validate(paper.model_dump(by_alias=True)) == paper


def test_positions_are_of_trainings_only(tmp_path: Path) -> None:
    paper = changed("tables.operators.positions", True)
    assert load_paper(write(tmp_path, paper)).tables["operators"].positions
    paper["tables"]["operators"]["rows"].append({"name": "bpe", "method": "bpe", "stage": "tokenizer"})
    with pytest.raises(RetraceError, match="positions: rows of tokenizer have no loss by position"):
        load_paper(write(tmp_path, paper))
