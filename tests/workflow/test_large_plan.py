"""Planning a graph of thousands of jobs: what does not depend on their number is done once a process."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
import yaml

from benchmarks import planning
from pipelines.runs import identity, methods
from workflow.papers import plan_papers


@pytest.fixture
def forgotten() -> None:
    """Nothing of the code has been read in this process, whatever tests ran before in it."""
    for module in (identity, methods):
        for cached in vars(module).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_every_module_is_read_once_however_many_jobs_are_planned(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "PAPERS", 3)
    planning.write_papers(checkout)
    read: Counter[str] = Counter()
    parse = ast.parse

    def counted(source: str, filename: str = "", *arguments: object, **options: object) -> ast.AST:
        read[filename] += 1
        return parse(source, filename, *arguments, **options)

    monkeypatch.setattr(ast, "parse", counted)
    config = yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8"))
    plan = plan_papers(config, str(checkout))
    assert len(plan.jobs) > 1000
    modules = {name: times for name, times in read.items() if name.endswith(".py")}
    assert len(modules) > 50
    # A method's file twice: for its hyper-parameters and for its meaning.
    assert {name for name, times in modules.items() if times > 1 + ("/methods/" in name)} == set()


def test_every_job_of_a_large_plan_has_a_key_of_its_own(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "PAPERS", 3)
    planning.write_papers(checkout)
    config = yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8"))
    plan = plan_papers(config, str(checkout))
    assert len({job.key for job in plan.jobs.values()}) == len(plan.jobs)
