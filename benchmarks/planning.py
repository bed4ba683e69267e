"""Planning ten thousand jobs with their identity, against plain Snakemake planning the same graph without.

The jobs are those of synthetic papers, planned by the real Snakefile, plan and rules. The plain graph has the same
jobs, inputs and rules as folders and a lookup table: no parameters to check, no specs, no keys. Both alternate.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import measured

PAPERS, ROWS, SEEDS = 22, 5, 10
ROUNDS = 3
# Stage of a table -> its methods, a column, whether the harness scores it, and the key that tells its rows apart.
TABLES = {
    "tokenizer": ("scaffold_bpe", "fertility", False, "min_frequency"),
    "growth": ("stack", "val_loss", True, "training.weight_decay"),
    "moe": ("rmoe", "val_loss", True, "training.weight_decay"),
    "continual": ("ft", "average_accuracy", True, "weight_decay"),
}
PLAIN_SNAKEFILE = """\
import json

GRAPH = json.load(open("graph.json"))


rule all:
    input:
        [f"tables/{name}.{kind}" for name in GRAPH["tables"] for kind in ("md", "csv", "tex")],
        "metrics",
        "mirror",


for each in GRAPH["rules"]:

    rule:
        name:
            each
        input:
            lambda wildcards, each=each: GRAPH["inputs"][f"{each}/{wildcards.run}"],
        output:
            directory(f"{each}/{{run}}"),
        log:
            f"logs/{each}/{{run}}.log",
        shell:
            "true {input} {output} 2> {log}"


rule table:
    input:
        "tables_build/papers/{paper}",
    output:
        multiext("tables/{paper}/{table}", ".md", ".csv", ".tex"),
    shell:
        "true"


for each in ("metrics", "mirror"):

    rule:
        name:
            each
        input:
            [path for path in GRAPH["inputs"] if not path.startswith("tables_")],
        output:
            directory(each),
        shell:
            "true {input}"
"""


def measure(checkout: Path, plain: Path) -> dict[str, Any]:
    """Median seconds of ``snakemake --dry-run`` over either graph, and of the plan alone.

    Args:
        checkout: a copy of the checkout; its papers and parameters are replaced.
        plain: where the plain graph goes.
    """
    write_papers(checkout)
    jobs, plan_seconds = write_plain_graph(checkout, plain)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(_dry_run(checkout, "paper_tables", jobs))
        theirs.append(_dry_run(plain, "all", jobs))
    return {
        "jobs": jobs,
        "plan_alone_seconds": plan_seconds,
        "with_identity_seconds": statistics.median(ours),
        "plain_snakemake_seconds": statistics.median(theirs),
        "times_plain": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
    }


def write_papers(checkout: Path) -> None:
    """Papers with a table a stage, every row another setting of one method."""
    names = [f"synthetic{number}" for number in range(PAPERS)]
    for number, name in enumerate(names):
        tables = {stage: _table(stage, number) for stage in TABLES}
        (checkout / "papers" / name).mkdir()
        text = yaml.safe_dump({"title": name, "tables": tables})
        (checkout / "papers" / name / "paper.yaml").write_text(text, encoding="utf-8")
    params = yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump({**params, "papers": names, "seeds": SEEDS})
    (checkout / "params.yaml").write_text(text, encoding="utf-8")


def _table(stage: str, paper: int) -> dict[str, Any]:
    method, column, evaluate, key = TABLES[stage]
    steps = range(paper * ROWS + 2, paper * ROWS + ROWS + 2)
    values = [step if key == "min_frequency" else round(step * 1e-4, 4) for step in steps]
    return {
        "caption": stage,
        "stage": stage,
        "rows": [{"name": f"row{i}", "method": method, "with": {key: value}} for i, value in enumerate(values)],
        "columns": [column],
        "evaluate": evaluate,
        "seeds": list(range(SEEDS)),
    }


def write_plain_graph(checkout: Path, plain: Path) -> tuple[int, float]:
    """The planned graph as plain Snakemake would have it; the number of jobs, and what the plan alone took."""
    from workflow.papers import plan_papers

    config = yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8"))
    started = time.monotonic()
    plan = plan_papers(config, str(checkout))
    seconds = time.monotonic() - started
    # A rule's own folder, so that its name alone finds it.
    place = {p: f"{job.stage}_{job.verb}/{p.removeprefix('results/')}" for p, job in plan.jobs.items()}
    graph = {
        "rules": sorted({f"{job.stage}_{job.verb}" for job in plan.jobs.values()}),
        "inputs": {place[p]: [place[i] for _, i in job.input_pairs()] for p, job in plan.jobs.items()},
        "tables": [f"{paper}/{table}" for paper, table in plan.tables],
    }
    plain.mkdir(parents=True)
    (plain / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    (plain / "Snakefile").write_text(PLAIN_SNAKEFILE, encoding="utf-8")
    return len(plan.jobs), seconds


def _dry_run(folder: Path, target: str, jobs: int) -> float:
    command = [sys.executable, "-m", "snakemake", "--cores", "1", target, "--dry-run", "--quiet", "rules"]
    done = measured(command, folder, {"PYTHONPATH": os.fspath(folder)})
    # Job statistics end with the total; what is not planned was not measured.
    total = next(int(line.split()[1]) for line in done.output.splitlines() if line.startswith("total "))
    assert total >= jobs, f"{folder}: {total} jobs in place of {jobs}"
    return done.seconds
