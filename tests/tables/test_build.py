from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.runs.job import Job
from pipelines.runs.verb import parse_spec
from pipelines.tables.build import build
from pipelines.tables.spec import CELLS, BuildSpec

MakeArtifact = Callable[..., Path]
MakeJob = Callable[[str], Job]

HEAD = "table,row,column,compares_with,value,unit,where,known_by,source,note\n"


def curve(end: float, offset: float = 0.0) -> list[dict[str, Any]]:
    return [{"step": k, "flops": offset + 10 * k, "loss": 4 - k * (4 - end) / 10} for k in range(1, 11)]


def spec(table: dict[str, Any] | None = None, **paper: Any) -> BuildSpec:
    rows = [{"name": "scratch", "stage": "growth", "method": "scratch"}]
    rows += [{"name": "stack", "stage": "growth", "method": "stack", "label": "stacked & grown"}]
    places = [(row, seed) for row in ("scratch", "stack") for seed in (0, 1)]
    cells = [{"row": row, "seed": seed, "run": place} for place, (row, seed) in enumerate(places)]
    base = {"name": "operators", "caption": "Growth.", "rows": rows, "columns": ["val_loss", "speedup"]}
    base |= {"seeds": [0, 1], "reference": "scratch", "smoothing_window": 1, "cells": cells}
    parsed = parse_spec(BuildSpec, {"paper": "p", "title": "A paper", "tables": [base | (table or {})]} | paper, "spec")
    assert isinstance(parsed, BuildSpec)
    return parsed


@pytest.fixture
def runs(artifact: MakeArtifact) -> list[Path]:
    return [
        artifact("scratch0", curve(2.0), val_loss=2.0),
        artifact("scratch1", curve(2.2), val_loss=2.2),
        artifact("stack0", curve(1.0, 10), val_loss=1.5),
        artifact("stack1", curve(3.0, 10), val_loss=3.25),
    ]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_cells_are_mean_and_deviation_over_seeds_beside_the_reported(
    runs: list[Path], job: MakeJob, tmp_path: Path
) -> None:
    reported = tmp_path / "reported.csv"
    lines = [
        "operators,stack,loss at 1B,val_loss,2.151,,Figure 3,paper,arXiv,one seed",
        "operators,zero,loss at 1B,,2.2,,Figure 3,paper,arXiv,",
    ]
    reported.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    made = job("out")
    counts = build(spec(), {"run": runs, "evaluation": [], "reported": reported}, made)
    text = (made.out / "operators.md").read_text(encoding="utf-8")
    table = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    assert table[0] == ["", "validation loss ↓ (nats)", "reported (paper): loss at 1B", "speedup ↑ (%)"]
    assert table[2] == ["scratch", "2.1000 ± 0.1414 (2)", "–", "–"]
    # seed 0 reaches 2.0 at 10 + 2/3 of 100 FLOPs against 100; seed 1 never reaches 2.2.
    assert table[3] == ["stacked & grown", "2.3750 ± 1.2374 (2)", "2.151", "30.4 (1 of 2)"]
    assert "| zero " in text
    assert '<td class="text">stacked &amp; grown</td>' in (made.out / "operators.html").read_text(encoding="utf-8")
    assert r"stacked \& grown & 2.3750 $\pm$ 1.2374 (2)" in (made.out / "operators.tex").read_text(encoding="utf-8")
    assert counts == {"num_tables": 1, "num_cells": 4, "num_values": 5, "num_reported": 2}


def test_the_csv_has_every_seeds_unrounded_value_in_the_shown_unit(runs: list[Path], job: MakeJob) -> None:
    made = job("out")
    build(spec(), {"run": runs, "evaluation": []}, made)
    lines = {(line["row"], line["column"]): line for line in read_csv(made.out / "operators.csv")}
    assert (lines["stack", "val_loss"]["seed_0"], lines["stack", "val_loss"]["seed_1"]) == ("1.5", "3.25")
    # Student's t with one degree of freedom: tan(0.475 pi) standard errors on either side of the mean.
    bounds = [float(lines["stack", "val_loss"][bound]) for bound in ("low", "high")]
    half = math.tan(0.475 * math.pi) * (3.25 - 1.5) / 2
    assert bounds == pytest.approx([2.375 - half, 2.375 + half])
    speedup = lines["stack", "speedup"]
    assert (speedup["low"], speedup["high"]) == ("", "")
    assert float(speedup["seed_0"]) == pytest.approx(100 * (100 / (10 + 200 / 3) - 1))
    assert (speedup["seed_1"], speedup["n"], speedup["sd"], speedup["unit"]) == ("", "1", "", "%")
    assert lines["scratch", "speedup"]["mean"] == ""


def test_cells_json_names_the_artifact_behind_every_number(runs: list[Path], job: MakeJob) -> None:
    made = job("out")
    build(spec(), {"run": runs, "evaluation": []}, made)
    table = json.loads((made.out / "cells.json").read_text(encoding="utf-8"))["tables"]["operators"]
    assert table["artifacts"]["stack"] == {"0": ["key-of-stack0"], "1": ["key-of-stack1"]}
    assert table["values"]["stack"]["val_loss"] == {"0": 1.5, "1": 3.25}
    assert table["values"]["stack"]["speedup"]["1"] is None


def test_two_builds_are_byte_identical(runs: list[Path], job: MakeJob) -> None:
    first, second = job("first"), job("second")
    plots = ({"name": "curves", "table": "operators"},)
    for made in (first, second):
        build(spec(plots=plots), {"run": runs, "evaluation": []}, made)
    names = sorted(path.name for path in first.out.iterdir())
    assert names == [
        "cells.json",
        "curves.png",
        "curves.svg",
        *(f"operators.{s}" for s in ("csv", "html", "md", "tex")),
    ]
    for name in names:
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes(), name


def test_artifacts_of_one_cell_are_merged(artifact: MakeArtifact, job: MakeJob) -> None:
    inputs = {
        "run": [artifact("train", vocab_size=300, tokens=5), artifact("measure", vocab_size=300, fertility=1.5)],
        "evaluation": [artifact("evaluation", average_acc=0.25)],
    }
    row = {"rows": [{"name": "bpe", "stage": "tokenizer"}], "columns": ["vocab_size", "fertility", "average_acc"]}
    cells = [{"row": "bpe", "seed": 0, "run": 0, "extra": [1], "evaluation": 0}]
    made = job("out")
    build(spec({**row, "seeds": [0], "reference": None, "cells": cells}), inputs, made)
    lines = read_csv(made.out / "operators.csv")
    assert [(line["column"], float(line["seed_0"])) for line in lines] == [
        ("vocab_size", 300),
        ("fertility", 1.5),
        ("average_acc", 25.0),
    ]


def test_a_pattern_is_a_column_for_every_task_of_the_harness(artifact: MakeArtifact, job: MakeJob) -> None:
    scores = {"zebra_acc": 0.5, "ape_acc": 0.25, "ape_acc_norm": 0.75, "ape_ppl": 3.0, "average_acc": 0.375}
    inputs = {"run": [artifact("train", val_loss=1.0)], "evaluation": [artifact("scored", **scores)]}
    one = {
        "rows": [{"name": "stack", "stage": "growth"}],
        "seeds": [0],
        "reference": None,
        "cells": [{"row": "stack", "seed": 0, "run": 0, "evaluation": 0}],
    }
    for columns, shown in (
        (["val_loss", "*_acc", "average_acc"], ["val_loss", "zebra_acc", "ape_acc", "average_acc"]),
        (["*_acc_norm", "*_ppl"], ["ape_acc_norm", "ape_ppl"]),
        (["ape_acc", "val_loss", "*_acc"], ["ape_acc", "val_loss", "zebra_acc"]),
    ):
        made = job("-".join(shown))
        build(spec({**one, "columns": columns}), inputs, made)
        assert [line["column"] for line in read_csv(made.out / "operators.csv")] == shown
        assert json.loads((made.out / CELLS).read_text())["tables"]["operators"]["columns"] == shown
    unscored = {**one, "cells": [{"row": "stack", "seed": 0, "run": 0}], "columns": ["val_loss", "*_acc"]}
    with pytest.raises(RetraceError, match=r"no run has the metric \*_acc; .*evaluate: true"):
        build(spec(unscored), inputs, job("unscored"))


def test_a_metric_with_two_values_in_one_cell_is_refused(artifact: MakeArtifact, job: MakeJob) -> None:
    inputs = {"run": [artifact("train", val_loss=1.0), artifact("measure", val_loss=2.0)], "evaluation": []}
    cells = [{"row": "stack", "seed": 1, "run": 0, "extra": [1]}]
    with pytest.raises(RetraceError, match=r"row stack, seed 1: val_loss is 1.0 in .*train and 2.0 in .*measure"):
        build(spec({"cells": cells}), inputs, job("out"))


def test_a_stage_without_a_metric_shows_a_dash(artifact: MakeArtifact, job: MakeJob) -> None:
    rows = [{"name": "base", "stage": "pretrain"}, {"name": "finetuned", "stage": "continual", "parent": "base"}]
    table = {"rows": rows, "columns": ["val_bits_per_byte", "average_accuracy", "bits_per_byte_gain"], "seeds": [0]}
    cells = [{"row": "base", "seed": 0, "run": 0}, {"row": "finetuned", "seed": 0, "run": 1}]
    made = job("out")
    inputs = {
        "run": [artifact("base", val_bits_per_byte=2.0), artifact("tuned", average_accuracy=0.5)],
        "evaluation": [],
    }
    build(spec({**table, "reference": None, "cells": cells}), inputs, made)
    text = (made.out / "operators.md").read_text(encoding="utf-8")
    rows_shown = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")
    ]
    assert rows_shown[2:] == [["base", "2.0000 (1)", "–", "–"], ["finetuned", "–", "50.00 (1)", "–"]]


def test_a_column_no_run_has_is_refused_with_those_there_are(runs: list[Path], job: MakeJob) -> None:
    with pytest.raises(RetraceError, match=r"no run has the metric average_acc; they have: val_loss .*evaluate: true"):
        build(spec({"columns": ["val_loss", "average_acc"]}), {"run": runs, "evaluation": []}, job("out"))


def test_a_column_that_one_seed_lacks_is_refused(runs: list[Path], artifact: MakeArtifact, job: MakeJob) -> None:
    inputs = {"run": [*runs[:3], artifact("short", train_loss=1.0)], "evaluation": []}
    with pytest.raises(RetraceError, match="row stack lacks val_loss at seed 1 only"):
        build(spec({"columns": ["val_loss"]}), inputs, job("out"))


def test_a_diverged_run_is_counted_as_undefined(runs: list[Path], artifact: MakeArtifact, job: MakeJob) -> None:
    made = job("out")
    inputs = {"run": [*runs[:3], artifact("diverged", val_loss=float("nan"))], "evaluation": []}
    build(spec({"columns": ["val_loss"]}), inputs, made)
    assert "1.5000 (1 of 2)" in (made.out / "operators.md").read_text(encoding="utf-8")


def test_an_index_beyond_the_inputs_is_refused(runs: list[Path], job: MakeJob) -> None:
    with pytest.raises(RetraceError, match="row stack, seed 1: asks for --run number 3, and 3 are given"):
        build(spec(), {"run": runs[:3], "evaluation": []}, job("out"))


def test_an_unfinished_run_is_refused(runs: list[Path], job: MakeJob) -> None:
    (runs[2] / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n', encoding="utf-8")
    with pytest.raises(RetraceError, match=r"stack0/metrics.jsonl has no final line"):
        build(spec(), {"run": runs, "evaluation": []}, job("out"))


def test_a_metric_that_is_no_number_is_refused(artifact: MakeArtifact, job: MakeJob) -> None:
    cells = [{"row": "stack", "seed": 0, "run": 0}]
    with pytest.raises(RetraceError, match='val_loss is "low", not a number'):
        build(spec({"cells": cells}), {"run": [artifact("words", val_loss="low")], "evaluation": []}, job("out"))


def test_reported_numbers_of_an_unknown_table_are_refused(runs: list[Path], job: MakeJob, tmp_path: Path) -> None:
    path = tmp_path / "reported.csv"
    path.write_text(HEAD + "operator,stack,loss,,2,,T1,paper,s,\n", encoding="utf-8")
    with pytest.raises(RetraceError, match=r"reported.csv: no table 'operator'; tables: operators"):
        build(spec(), {"run": runs, "evaluation": [], "reported": path}, job("out"))


def test_rows_may_be_compared_with_rows_of_their_kind(artifact: MakeArtifact, job: MakeJob) -> None:
    rows = [{"name": name, "stage": "pretrain"} for name in ("small", "smaller", "large", "larger")]
    rows[1]["reference"] = rows[0]["reference"] = "small"
    levels = [2.0, 1.5, 1.0, 1.25]
    inputs = {
        "run": [
            artifact(f"{row['name']}{seed}", val_bits_per_byte=level + seed / 8)
            for row, level in zip(rows, levels, strict=True)
            for seed in (0, 1)
        ],
        "evaluation": [],
    }
    cells = [{"row": rows[place // 2]["name"], "seed": place % 2, "run": place} for place in range(8)]
    table = {"rows": rows, "reference": "large", "columns": ["val_bits_per_byte", "bits_per_byte_change"]}
    made = job("out")
    build(spec({**table, "cells": cells}), inputs, made)
    changes = {
        line["row"]: (line["seed_0"], line["seed_1"], line["sd"])
        for line in read_csv(made.out / "operators.csv")
        if line["column"] == "bits_per_byte_change"
    }
    assert changes["smaller"] == ("-0.5", "-0.5", "0.0")
    assert changes["larger"] == ("0.25", "0.25", "0.0")
    assert changes["small"][:2] == changes["large"][:2] == ("", "")
    assert "Compared with `small` or `large`, each row with that of its kind" in (made.out / "operators.md").read_text()


def test_a_plot_of_frequencies_takes_its_lines_from_what_was_measured_of_the_run(
    artifact: MakeArtifact, job: MakeJob
) -> None:
    lines = [{"step": k, "rank": k, "visible_frequency": 90 // k, "scaffold_frequency": 9 - k} for k in range(1, 10)]
    inputs = {"run": [artifact("train", vocab_size=9), artifact("measure", lines, vocab_size=9)], "evaluation": []}
    rows = [{"name": "bpe", "stage": "tokenizer"}]
    cells = [{"row": "bpe", "seed": 0, "run": 0, "extra": [1]}]
    table = {"rows": rows, "columns": ["vocab_size"], "seeds": [0], "reference": None, "cells": cells}
    plot = {"name": "ranks", "table": "operators", "x": "rank", "scale": "log", "rows": ["bpe"]}
    made = job("out")
    build(spec(table, plots=[{**plot, "y": ["visible_frequency", "scaffold_frequency"]}]), inputs, made)
    assert (made.out / "ranks.svg").stat().st_size > (made.out / "operators.md").stat().st_size
    with pytest.raises(RetraceError, match="no run of table operators has logged rank and loss or val_loss"):
        build(spec(table, plots=[{**plot, "y": ["loss", "val_loss"]}]), inputs, job("another"))
    with pytest.raises(RetraceError, match="plot ranks: no row 'bp' in operators; rows: bpe"):
        spec(table, plots=[{**plot, "rows": ["bp"]}])


def test_a_table_that_was_not_run_says_why_and_still_shows_what_is_reported(job: MakeJob, tmp_path: Path) -> None:
    reported = tmp_path / "reported.csv"
    reported.write_text(HEAD + "operators,stack,loss at 1B,val_loss,2.151,,Figure 3,paper,arXiv,\n", encoding="utf-8")
    inputs = {"run": [], "evaluation": [], "reported": reported}
    made = job("out")
    build(spec({"cells": [], "not_run": "it needs folders.text"}), inputs, made)
    for suffix in ("md", "html"):
        page = (made.out / f"operators.{suffix}").read_text(encoding="utf-8")
        assert "Not run: it needs folders.text." in page
        assert "2.151" in page


def test_a_plot_without_a_curve_is_refused(artifact: MakeArtifact, job: MakeJob) -> None:
    inputs = {"run": [artifact("still", val_loss=1.0)], "evaluation": []}
    table = {"cells": [{"row": "stack", "seed": 0, "run": 0}], "columns": ["val_loss"]}
    with pytest.raises(RetraceError, match=r"plots.curves: no run of table operators has logged flops and loss"):
        build(spec(table, plots=[{"name": "curves", "table": "operators"}]), inputs, job("out"))


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"columns": ["val_los"]}, "unknown metric 'val_los'; known: vocab_size"),
        ({"reference": "scrath"}, "no row 'scrath'"),
        ({"cells": [{"row": "zero", "seed": 0, "run": 0}]}, "cells name zero"),
        ({"cells": [{"row": "stack", "seed": 7, "run": 0}]}, "cells name 7"),
        ({"cells": [{"row": "stack", "seed": 0, "run": 0}] * 2}, "two cells of one row and seed"),
        ({"seedz": [0]}, "unknown key tables.0.seedz"),
    ],
)
def test_a_wrong_spec_is_refused(table: dict[str, Any], fault: str) -> None:
    with pytest.raises(RetraceError, match=fault):
        spec(table)


def test_the_verb_runs_from_the_command_line(runs: list[Path], run_cli: Any, tmp_path: Path) -> None:
    paths = [part for run in runs for part in ("--run", run)]
    out = tmp_path / "tables" / "p"
    run_cli("tables", "build", *paths, "--out", out, spec=spec().model_dump(mode="json"))
    assert (out / "operators.md").is_file()
    assert json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["num_cells"] == 4
