"""The life of a job: whole or absent, one line for what a person can mend, and a record of what was done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs.artifacts import left_in

SCRATCH = {"method": {"name": "scratch"}}


@pytest.fixture
def grow(tree: Path, run_cli):
    """Run the tree's one verb: ``grow(spec, *options, execution=..., check=...)``."""

    def grow(spec, *options, **keywords):
        return run_cli("growth", "train", *options, spec=spec, cwd=tree, **keywords)

    return grow


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def test_a_job_leaves_its_artifact_its_record_and_every_logged_line(grow, tmp_path):
    out = tmp_path / "results" / "run"
    grow({**SCRATCH, "steps": 3}, "--out", out)
    assert left_in(out) == ["metrics.jsonl", "run.json", "weights"]
    assert left_in(out.parent) == ["run"]
    record = json.loads((out / "run.json").read_text())
    assert record["spec"] == {
        "method": {"name": "scratch", "growth_factor": 1},
        "steps": 3,
        "seed": 0,
        "fault": "",
        "inner": {"width": 3},
    }
    assert (record["stage"], record["verb"], record["world_size"], record["tokens"]) == ("growth", "train", 1, 10)
    assert record["provenance"] == "computed"
    assert 1e6 < record["peak_memory_bytes"] < 1e9
    assert 0 < record["startup_seconds"] < 100
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [1, 2, 3, None]
    assert lines[-1] == {"final": True, "final_loss": pytest.approx(1 / 3), "world_size": 1}


def test_a_finished_job_removes_the_checkpoints_of_its_unfinished_self(grow, tmp_path):
    grow(SCRATCH, "--out", tmp_path / "out")
    assert left_in(tmp_path / "work") == []


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ({**SCRATCH, "stepz": 1}, ("stepz", "known at the top level: method, steps")),
        ({**SCRATCH, "steps": "many"}, ("steps", "'many'")),
        ({**SCRATCH, "steps": 0}, ("steps", "greater than or equal to 1")),
        ({**SCRATCH, "inner": {"width": 1.5}}, ("inner.width",)),
        ({"method": {"name": "stac"}}, ("no method 'stac'", "known: scratch, stack")),
        ({"method": {"name": "scratch", "factor": 2}}, ("unknown hyper-parameter factor", "growth_factor")),
        ({"method": {"name": "stack"}}, ("growth.stack.growth_factor is missing",)),
        ({"steps": 2}, ("method", "required")),
        ({"method": {"name": "stack", "growth_factor": 2}}, ("--base is missing", "what to start from")),
        ([1], ("dictionary",)),
    ],
)
def test_a_wrong_spec_is_one_line_naming_the_key(grow, tmp_path, spec, parts):
    done = grow(spec, "--out", tmp_path / "results" / "out", check=False)
    assert_one_line(done, *parts)
    assert left_in(tmp_path / "results") == []


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--spec", "{method: scratch"), ("--spec: not JSON",)),
        (("--spec", "@missing.json"), ("no such file missing.json",)),
        (("--spec", json.dumps(SCRATCH), "--exec", '{"process": 2}'), ("--exec: unknown key process",)),
        (("--spec", json.dumps(SCRATCH), "--base", "nowhere"), ("--base: no such file or folder: nowhere",)),
        (("--spec", json.dumps(SCRATCH), "--exec", '{"processes": 999}'), ("2 is not a multiple of the 999",)),
        (
            ("--spec", json.dumps({**SCRATCH, "steps": 999}), "--exec", '{"processes": 999}'),
            ("processes: 999 ranks need as many cores", "lower processes"),
        ),
    ],
)
def test_a_wrong_call_is_one_line_naming_the_option(tree, run_cli, tmp_path, options, parts):
    done = run_cli("growth", "train", *options, "--out", tmp_path / "results" / "out", cwd=tree, check=False)
    assert_one_line(done, *parts)
    assert left_in(tmp_path / "results") == []


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("nowhere", "train"), "'nowhere'"),
        (("growth", "shrink"), "'shrink'"),
        (("growth", "train", "--outt", "x"), "'--outt'"),
        (("growth", "train"), "'--out'"),
    ],
)
def test_an_unknown_stage_verb_or_option_is_refused_by_name(tree, run_cli, command, named):
    done = run_cli(*command, cwd=tree, check=False)
    assert done.returncode == 2
    assert named in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_what_a_person_can_mend_is_one_line_and_leaves_nothing(grow, tmp_path):
    done = grow({**SCRATCH, "fault": "wrong input"}, "--out", tmp_path / "results" / "out", check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "error: the base is too small: choose a larger one"
    assert "Traceback" not in done.stderr
    assert left_in(tmp_path / "results") == []


def test_a_bug_shows_its_traceback_and_leaves_nothing(grow, tmp_path):
    done = grow({**SCRATCH, "fault": "bug"}, "--out", tmp_path / "results" / "out", check=False)
    assert done.returncode == 1
    assert "ValueError: a bug" in done.stderr
    assert left_in(tmp_path / "results") == []


def test_a_job_stopped_by_sigterm_leaves_nothing_but_its_checkpoints(tree, tmp_path):
    out = tmp_path / "results" / "out"
    spec = json.dumps({**SCRATCH, "fault": "wait"})
    job = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "growth", "train", "--spec", spec, "--out", str(out)],
        cwd=tree,
        env={**os.environ, "RETRACE_WORK": str(tmp_path / "work"), "PYTHONPATH": str(tree)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (out.parent / "waiting0").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 128 + signal.SIGTERM
    assert left_in(out.parent) == ["waiting0"]
    assert len(left_in(tmp_path / "work")) == 1


def test_an_existing_output_is_kept_unless_told_otherwise(grow, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").touch()
    assert_one_line(grow(SCRATCH, "--out", out, check=False), str(out), "--overwrite")
    assert left_in(out) == ["precious"]
    done = grow({**SCRATCH, "fault": "bug"}, "--out", out, "--overwrite", check=False)
    assert done.returncode == 1
    assert left_in(out) == ["precious"]
    grow(SCRATCH, "--out", out, "--overwrite")
    assert left_in(out) == ["metrics.jsonl", "run.json", "weights"]


def test_what_a_killed_job_left_is_not_in_the_way(grow, tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    partial = tmp_path / f".out.{os.uname().nodename}-{gone.pid}.partial"
    partial.mkdir()
    (partial / "stale").touch()
    grow(SCRATCH, "--out", tmp_path / "out")
    assert left_in(tmp_path / "out") == ["metrics.jsonl", "run.json", "weights"]
    assert not partial.exists()


def test_an_input_made_by_a_job_counts_by_its_key_and_an_optional_one_not_given_does_not_count(grow, tmp_path):
    grow(SCRATCH, "--out", tmp_path / "base")
    (tmp_path / "notes.txt").write_text("more")
    grow({"method": {"name": "stack", "growth_factor": 2}}, "--base", tmp_path / "base", "--out", tmp_path / "a")
    grow(SCRATCH, "--extra", tmp_path / "notes.txt", "--extra", tmp_path / "base", "--out", tmp_path / "b")
    base, a, b = (json.loads((tmp_path / each / "run.json").read_text()) for each in ("base", "a", "b"))
    assert base["inputs"] == {}
    assert a["inputs"] == {"base": base["key"]}
    assert b["inputs"]["extra"][1] == base["key"]
    assert len(b["inputs"]["extra"][0]) == 64
    assert len({base["key"], a["key"], b["key"]}) == 3


def test_a_key_has_no_place_for_how_and_where_a_job_ran(grow, tmp_path):
    grow(SCRATCH, "--out", tmp_path / "one")
    grow({**SCRATCH, "steps": 2, "seed": 0}, "--out", tmp_path / "other", execution={"threads": 2, "device": "cpu"})
    grow({**SCRATCH, "seed": 1}, "--out", tmp_path / "seed1")
    keys = [json.loads((tmp_path / each / "run.json").read_text())["key"] for each in ("one", "other", "seed1")]
    assert keys[0] == keys[1] != keys[2]


def test_progress_is_plain_lines_in_a_log(grow, tmp_path):
    done = grow(SCRATCH, "--out", tmp_path / "out")
    assert done.stdout == ""
    assert done.stderr.startswith("growing: 2 steps in ")


def test_help_names_every_key_method_and_input(tree, run_cli):
    text = " ".join(run_cli("growth", "train", "--help", cwd=tree).stdout.split())
    for part in ("inner.width", "how many", "Stack layers (a paper).", "growth_factor required", "--base", "processes"):
        assert part in text
    assert "Add numbers." in run_cli("growth", "--help", cwd=tree).stdout
