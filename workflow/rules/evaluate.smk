HARNESS_TASKS = "results/evaluate/tasks"
EVALUATED = f"results/evaluate/{{stage}}/{RUN}"


rule harness_tasks:
    """Write the evaluation tasks in the harness's own format."""
    input:
        unpack(planned_inputs(HARNESS_TASKS)),
    output:
        directory(HARNESS_TASKS),
    log:
        "results/logs/evaluate/tasks.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        spec=planned_spec(HARNESS_TASKS),
        key=planned_key(HARNESS_TASKS),
        inputs=planned_options(HARNESS_TASKS),
    shell:
        "python -m pipelines evaluate tasks --spec {params.spec:q}"
        " {params.inputs} --out {output} 2> {log}"


rule evaluate:
    """Score a model with lm-evaluation-harness."""
    input:
        unpack(planned_inputs(EVALUATED)),
    output:
        directory(EVALUATED),
    log:
        "results/logs/evaluate/{stage}/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        spec=planned_spec(EVALUATED),
        key=planned_key(EVALUATED),
        inputs=planned_options(EVALUATED),
    shell:
        "python -m pipelines evaluate run --spec {params.spec:q}"
        " {params.inputs} --out {output} 2> {log}"
