HARNESS_TASKS = "results/evaluate/tasks"
EVALUATED = f"results/evaluate/{{stage}}/{RUN}"


rule harness_tasks:
    """Write the evaluation tasks in the harness's own format."""
    input:
        unpack(planned(HARNESS_TASKS, inputs)),
    output:
        directory(HARNESS_TASKS),
    log:
        "results/logs/evaluate/tasks.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(HARNESS_TASKS, key),
        options=options,
    shell:
        "python -m pipelines evaluate tasks --key {params.key} {params.options}"
        " --out {output} 2> {log}"


rule evaluate:
    """Score a model with lm-evaluation-harness."""
    input:
        unpack(planned(EVALUATED, inputs)),
    output:
        directory(EVALUATED),
    log:
        "results/logs/evaluate/{stage}/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(EVALUATED, key),
        options=options,
    shell:
        "python -m pipelines evaluate run --key {params.key} {params.options}"
        " --out {output} 2> {log}"
