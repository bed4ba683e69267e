"""Retrace: `snakemake --cores all paper_tables` makes every table that papers/ describes."""

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
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/checks.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        rules.paper_tables.input,


onsuccess:
    if Path("results/claims.csv").exists():
        shell("python -m pipelines tables summary")
