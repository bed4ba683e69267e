"""Retrace: `snakemake --cores all paper_tables` makes every table that papers/ describes."""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")


configfile: "params.yaml"


include: "workflow/rules/graph.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/tokenizer.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/growth.smk"
include: "workflow/rules/moe.smk"
include: "workflow/rules/continual.smk"
include: "workflow/rules/translation.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/forecast.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/checks.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        rules.paper_tables.input,


onstart:
    for table, folder in PLAN.not_run.items():
        print(f"not run: papers/{table}, which needs {folder}", file=sys.stderr)
    fetch_artifacts()


onsuccess:
    made = artifacts_of_this_call()
    if made:
        print(SHARING.account(made), file=sys.stderr, flush=True)
    if Path("results/claims.csv").exists():
        shell("python -m pipelines tables summary")
