"""``runs explain`` on a finished graph: what an artifact is, whether it is wanted as it is, and what differs if not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

GROWN = "results/growth/stack/default/seed0"
EXPERTS = "results/moe/rmoe/default/seed0"

Explain = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def explain(finished_smoke: Path, snakemake_environment: dict[str, str]) -> Explain:
    """``explain(path, ..., overlay={...}, check=True)`` in a finished checkout, at the smoke scale."""

    def explain(*arguments: str, overlay: dict[str, Any] | None = None, check: bool = True) -> Any:
        configfiles = ["--configfile", "params/smoke.yaml"]
        if overlay is not None:
            (finished_smoke / "overlay.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
            configfiles += ["--configfile", "overlay.yaml"]
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "runs", "explain", *arguments, *configfiles],
            cwd=finished_smoke,
            env={**snakemake_environment, "PYTHONPATH": str(finished_smoke)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    return explain


@contextmanager
def aside(path: Path) -> Iterator[None]:
    """A folder or file out of the way for a while."""
    hidden = path.with_name(f".{path.name}.hidden")
    path.rename(hidden)
    yield
    hidden.rename(path)


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The page of one path: label -> text, the last of each."""
    return {line[2:11].strip(): line[12:] for line in done.stdout.splitlines()[1:]}


def test_an_artifact_is_explained_by_all_that_its_key_is_made_of(finished_smoke: Path, explain: Explain) -> None:
    run = json.loads((finished_smoke / GROWN / "run.json").read_text(encoding="utf-8"))
    done = explain(GROWN)
    page = rows(done)
    assert done.stdout.splitlines()[0] == GROWN
    assert page["key"] == run["key"]
    assert page["computed"].startswith(f"{run['started']} in {run['seconds']:.1f} s")
    assert page["verb"] == "growth train"
    assert "method.growth_factor 3" in page["spec"]
    assert "input     tokens: results/tokens/scaffold_bpe/default/seed0 (" in done.stdout
    assert f"base: results/pretrain/dense/default/seed0 ({run['inputs']['base'][:12]})" == page["input"]
    assert "pipelines/growth/methods/stack.py" in page["code"]
    assert f"torch {run['versions']['torch']}" in page["packages"]
    assert page["wanted"] == "yes, as it is"
    assert page["store"].startswith("stored: computed")


def test_changed_parameters_are_named_down_to_the_inputs(explain: Explain) -> None:
    overlay = {"growth": {"stack": {"growth_factor": 4}}, "pretrain": {"training": {"weight_decay": 0.2}}}
    page = rows(explain(GROWN, overlay=overlay))
    assert page["differs"] == (
        "growth.stack.growth_factor 3 -> 4; growth.training.weight_decay 0.1 -> 0.2; input base: "
        "results/pretrain/dense/default/seed0 differs because pretrain.training.weight_decay 0.1 -> 0.2"
    )
    assert page["wanted"].startswith("no, but ")
    assert page["store"] == "the wanted one is not stored; the next run computes it"


def test_a_table_is_explained_by_its_paper_and_what_changed_far_above_it(explain: Explain) -> None:
    done = explain("results/tables/rmoe/routers.md", overlay={"moe": {"rmoe": {"recurrent_size": 4}}})
    assert done.stdout.splitlines()[0] == "results/papers/rmoe"
    assert rows(done)["differs"] == f"input run: {EXPERTS} differs because moe.rmoe.recurrent_size 8 -> 4"


def test_changed_code_is_named_by_its_file(finished_smoke: Path, explain: Explain) -> None:
    source = finished_smoke / "pipelines" / "growth" / "methods" / "stack.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(f"{text}\nMORE = 1\n", encoding="utf-8")
    page = rows(explain(GROWN))
    source.write_text(text, encoding="utf-8")
    assert page["differs"] == "pipelines/growth/methods/stack.py changed"


def test_another_version_of_a_package_is_named(finished_smoke: Path, explain: Explain) -> None:
    path = finished_smoke / GROWN / "run.json"
    text = path.read_text(encoding="utf-8")
    run = json.loads(text)
    path.write_text(json.dumps({**run, "key": "0" * 64, "versions": {**run["versions"], "torch": "2.12.0"}}))
    page = rows(explain(GROWN))
    path.write_text(text, encoding="utf-8")
    assert page["differs"] == f"torch 2.12.0 -> {run['versions']['torch']}"
    assert page["store"].endswith("the next run restores it")


def test_an_artifact_that_is_not_there_is_in_the_store_or_has_a_nearest_record(
    finished_smoke: Path, explain: Explain
) -> None:
    with aside(finished_smoke / EXPERTS):
        page = rows(explain(EXPERTS))
        assert (page["made"], page["wanted"]) == ("not yet", "yes")
        assert page["store"].startswith("stored: computed")
        assert page["store"].endswith("the next run restores it")
        page = rows(explain(EXPERTS, overlay={"moe": {"rmoe": {"recurrent_size": 4}}}))
        assert f"the next run computes it; nearest: {EXPERTS} (" in page["store"]
        assert page["differs"] == "moe.rmoe.recurrent_size 8 -> 4"


def test_without_a_record_of_its_verb_it_says_so(finished_smoke: Path, explain: Explain) -> None:
    with aside(finished_smoke / EXPERTS), aside(finished_smoke / ".dvc" / "cache"):
        assert rows(explain(EXPERTS))["store"] == "nothing of this verb is stored; the next run computes it"


def test_an_artifact_that_no_table_needs_is_held_against_the_code_here(finished_smoke: Path, explain: Explain) -> None:
    shutil.copytree(finished_smoke / EXPERTS, finished_smoke / "results" / "mine")
    assert rows(explain("results/mine"))["wanted"] == (
        "by no table of the current parameters; as the code here would make it"
    )


def test_everything_is_to_be_had_as_json(finished_smoke: Path, explain: Explain) -> None:
    found = json.loads(explain(GROWN, EXPERTS, "--json", overlay={"moe": {"rmoe": {"recurrent_size": 4}}}).stdout)
    assert [each["path"] for each in found] == [GROWN, EXPERTS]
    assert found[0]["differs"] == []
    assert found[0]["wanted_key"] == found[0]["parts"]["key"] == found[0]["stored"]["key"]
    assert [(each["name"], each["before"], each["after"]) for each in found[1]["differs"]] == [
        ("moe.rmoe.recurrent_size", 8, 4)
    ]
    assert set(found[1]["run"]["code"]) == set(found[1]["parts"]["code"])


def test_what_is_neither_there_nor_planned_or_damaged_is_refused(finished_smoke: Path, explain: Explain) -> None:
    done = explain("results/moe/rmoe/default/seed7", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "results/moe/rmoe/default/seed7: nothing is there" in done.stderr
    (finished_smoke / "results" / "broken").mkdir()
    (finished_smoke / "results" / "broken" / "run.json").write_text("{", encoding="utf-8")
    done = explain("results/broken", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "results/broken/run.json is damaged" in done.stderr
