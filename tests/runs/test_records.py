"""Finding, showing and summarising runs."""

from __future__ import annotations

import json

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.runs.records import final_metrics, find_runs, flatten


def test_runs_are_found_once_sorted_and_without_unfinished_ones(tmp_path, make_run):
    b, a = make_run(tmp_path / "tree" / "b"), make_run(tmp_path / "tree" / "a")
    make_run(tmp_path / "tree" / ".c.partial")
    assert find_runs([tmp_path / "tree", b]) == [a, b]
    with pytest.raises(RetraceError, match="no such folder"):
        find_runs([tmp_path / "nowhere"])


def test_flatten_dots_nested_keys_and_numbers_lists():
    assert flatten({"a": {"b": 1, "c": [2, {"d": 3}]}, "e": None}) == {"a.b": 1, "a.c.0": 2, "a.c.1.d": 3, "e": None}


def test_a_run_without_a_final_line_is_refused(tmp_path, make_run):
    run = make_run(tmp_path / "run", final={"val_loss": 1.0})
    assert final_metrics(run) == {"val_loss": 1.0}
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(RetraceError, match=r"run: the last line of metrics\.jsonl is not final"):
        final_metrics(run)


def test_collect_averages_seeds_and_leaves_out_what_is_not_a_number_everywhere(tmp_path, make_run, run_cli):
    results = tmp_path / "results"
    default = results / "growth" / "stack" / "default"
    make_run(default / "seed0", final={"val_loss": 1.0, "tokens": 10, "note": "x", "only_here": 1})
    make_run(default / "seed1", final={"val_loss": 2.0, "tokens": 10, "note": "y", "only_here": None})
    make_run(results / "tokenizer" / "bpe", final={"bytes_per_token": 3.5})
    stale = results / "metrics" / "old.json"
    stale.parent.mkdir()
    stale.touch()
    run_cli("runs", "collect", "--out", results / "metrics")
    files = {
        str(path.relative_to(results)): json.loads(path.read_text()) for path in (results / "metrics").rglob("*.json")
    }
    assert files == {
        "metrics/growth/stack/default.json": {"num_runs": 2, "val_loss": 1.5, "tokens": 10.0},
        "metrics/tokenizer/bpe.json": {"num_runs": 1, "bytes_per_token": 3.5},
    }


def test_show_prints_record_and_final_metrics(tmp_path, make_run, run_cli):
    run = make_run(tmp_path / "run", key="the-key", final={"val_loss": 1.25})
    text = run_cli("runs", "show", run, env={"COLUMNS": "200"}).stdout
    for part in ("the-key", "spec.method.growth_factor", "val_loss", "1.25"):
        assert part in text


def test_show_refuses_a_folder_without_runs(tmp_path, run_cli):
    done = run_cli("runs", "show", tmp_path, check=False)
    assert done.returncode == 2
    assert "nothing was run there" in done.stderr
