PAPER = "results/papers/{paper}"
CLAIMS = "results/papers/claims"
TABLE = "results/tables/{paper}/{table}"


rule paper:
    """Put one paper's runs into its tables and plots, reported numbers beside."""
    input:
        unpack(planned(PAPER, inputs)),
    output:
        directory(PAPER),
    log:
        "results/logs/papers/{paper}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(PAPER, key),
        options=options,
    shell:
        "python -m pipelines tables build --key {params.key} {params.options}"
        " --out {output} 2> {log}"


rule claims:
    """Give every claim its verdict from seed-paired differences."""
    input:
        unpack(planned(CLAIMS, inputs)),
    output:
        directory(CLAIMS),
    log:
        "results/logs/papers/claims.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(CLAIMS, key),
        options=options,
    shell:
        "python -m pipelines tables claims --key {params.key} {params.options}"
        " --out {output} 2> {log}"


rule publish_table:
    input:
        PAPER,
    output:
        multiext(TABLE, ".md", ".csv", ".tex"),
        html=report(
            f"{TABLE}.html",
            caption="../report/table.rst",
            category="Tables",
            subcategory="{paper}",
            labels={"table": "{table}"},
        ),
    log:
        "results/logs/tables/{paper}/{table}.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    shell:
        "cp {input}/{wildcards.table}.{{md,csv,tex,html}} $(dirname {output.html}) 2> {log}"


rule publish_plot:
    input:
        PAPER,
    output:
        png=report(
            f"{TABLE}.png",
            caption="../report/curves.rst",
            category="Curves",
            subcategory="{paper}",
            labels={"plot": "{table}"},
        ),
        svg=f"{TABLE}.svg",
    log:
        "results/logs/tables/{paper}/{table}_plot.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    shell:
        "cp {input}/{wildcards.table}.{{png,svg}} $(dirname {output.png}) 2> {log}"


rule publish_claims:
    input:
        CLAIMS,
    output:
        "results/claims.md",
        "results/claims.csv",
        html=report(
            "results/claims.html", caption="../report/claims.rst", category="Claims"
        ),
    log:
        "results/logs/claims.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    shell:
        "cp {input}/claims.{{md,csv,html}} results 2> {log}"


rule metrics:
    """Means over seeds, as the files that `dvc metrics` and `dvc plots` compare."""
    input:
        PLAN.runs,
    output:
        directory("results/metrics"),
    log:
        "results/logs/metrics.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        key=PLAN.runs_key,
    shell:
        "python -m pipelines runs collect {input} --out {output} 2> {log}"


rule mlflow_database:
    """Create the database of the MLflow mirror before anything writes to it."""
    output:
        touch("results/mlflow/prepared"),
    log:
        "results/logs/mlflow/prepare.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    shell:
        "python -m pipelines runs prepare 2> {log}"


rule mlflow_mirror:
    """Copy every run into MLflow, in one process."""
    input:
        "results/mlflow/prepared",
        runs=PLAN.runs,
    output:
        papers="results/mlflow/papers.json",
        runs="results/mlflow/runs.json",
    log:
        "results/logs/mlflow/mirror.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        key=PLAN.runs_key,
        papers=PLAN.runs_of_papers,
    shell:
        "(echo {params.papers:q} > {output.papers} &&"
        " python -m pipelines runs mirror {input.runs} --papers {output.papers} --out {output.runs}) 2> {log}"


rule paper_tables:
    """Everything: the tables of every paper, the claims, and the mirrors."""
    input:
        [
            multiext(f"results/tables/{paper}/{table}", ".md", ".csv", ".tex")
            for paper, table in PLAN.tables
        ],
        [
            multiext(f"results/tables/{paper}/{plot}", ".png", ".svg")
            for paper, plot in PLAN.plots
        ],
        "results/claims.md",
        "results/claims.csv",
        "results/metrics",
        "results/mlflow/runs.json",
