"""Killed at any moment and run again, the graph gives the tables it gives undisturbed, byte for byte."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1

import pytest

from benchmarks.graph import copy_checkout
from pipelines.runs.cache import Cache, cache_settings
from pipelines.runs.job import read_metrics, read_record
from pipelines.runs.store import Store
from tests.workflow.faults import Fault, FaultRun, Reference

Snakemake = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

TRAININGS = ("pretrain", "growth", "moe", "continual")
# `megatron` exports models, `runs` mirrors and collects.
OTHERS = ("data", "tokenizer", "megatron", "evaluate", "tables", "runs")
KILLS = 30
LIMIT_SECONDS = 900

# More than there may be jobs for: a kill that finds none is left over.
PLAN = [
    *(Fault(stage, signal) for stage in (*TRAININGS, *OTHERS) for signal in (SIGKILL, SIGTERM)),
    *(Fault(stage, signal, saved=True) for stage in TRAININGS for signal in (SIGKILL, SIGKILL, SIGTERM, SIGUSR1)),
    *(Fault("moe", signal, "rank", saved=True) for signal in (SIGKILL, SIGKILL, SIGTERM, SIGUSR1)),
    Fault("moe", SIGKILL, "rank"),
    *(Fault(stage, SIGKILL) for stage in ("tokenizer", "evaluate", "tables")),
    *(Fault(stage, SIGUSR1) for stage in ("tokenizer", "evaluate")),
    *(Fault(stage, SIGKILL, "snakemake") for stage in ("data", "growth", "moe", "continual", "tables")),
    *(Fault(stage, SIGTERM, "snakemake") for stage in ("tokenizer", "moe", "evaluate")),
]


def test_after_thirty_kills_at_every_stage_tables_and_claims_are_those_of_an_undisturbed_run(
    smoke_run: tuple[Path, str],
    snakemake: Snakemake,
    snakemake_environment: dict[str, str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    undisturbed, disturbed = smoke_run[0], copy_checkout(tmp_path / "disturbed")
    seed = int(os.environ.get("RETRACE_FAULT_SEED", random.randrange(10**6)))
    # A store of its own, whatever the person's DVC says.
    settings = {f"DVC_{level}_CONFIG_DIR": str(tmp_path) for level in ("GLOBAL", "SYSTEM")}
    environment = {**snakemake_environment, **settings}
    target = ["paper_tables", "--configfile", "params/smoke.yaml"]
    run = FaultRun(disturbed, target, PLAN, _reference(undisturbed), environment, seed, LIMIT_SECONDS)
    tally = run.run()
    record_property("summary", str(tally))

    assert len(tally.kills) >= KILLS, tally
    assert {each.stage for each in tally.kills} >= {*TRAININGS, *OTHERS}, tally
    assert all(tally.resumes[stage] > 0 for stage in TRAININGS), tally

    expected, found = (dict(_published(folder / "results")) for folder in (undisturbed, disturbed))
    assert sorted(expected) == sorted(found)
    assert [path for path in expected if expected[path] != found[path]] == []
    assert _half_written(disturbed) == []
    assert _unsound(disturbed) == []
    again = snakemake(disturbed, "paper_tables")
    assert "Nothing to be done" in again.stdout + again.stderr


def _reference(checkout: Path) -> dict[str, Reference]:
    found = {}
    for path in checkout.glob("results/**/run.json"):
        record, lines = read_record(path.parent), read_metrics(path.parent)
        steps = max(line.get("step", 0) for line in lines)
        found[path.parent.relative_to(checkout).as_posix()] = Reference(record["key"], record["seconds"], steps)
    return found


def _published(results: Path) -> Iterator[tuple[str, bytes]]:
    """What a person reads, and every logged figure it was made from."""
    for pattern in ("tables/**/*", "claims.*", "**/metrics.jsonl"):
        for path in results.glob(pattern):
            if path.is_file() and not path.name.startswith("."):
                yield path.relative_to(results).as_posix(), path.read_bytes()


def _half_written(checkout: Path) -> list[str]:
    """Whatever a killed process may have left in place of, or beside, what is whole."""
    patterns = ("results/**/.*.partial", "results/**/.*.replaced", ".retrace/work/*", ".*.partial*")
    return [path.relative_to(checkout).as_posix() for each in patterns for path in checkout.glob(each)]


def _unsound(checkout: Path) -> list[str]:
    """Objects of the store that are not what their name says, and records that lack one."""
    settings = cache_settings(checkout)
    assert settings is not None
    store = Store(Cache(settings), checkout)
    bad = [md5 for md5, _ in store.cache.objects() if not store.cache.is_sound(md5)]
    return bad + [record.path for record in store.records() if store.missing(record)]
