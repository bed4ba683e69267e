CORPUS = "results/data/{domain}/seed{seed}"
TASKS = "results/data/tasks"


rule corpus:
    """Collect a corpus and split it by module."""
    input:
        unpack(planned_inputs(CORPUS)),
    output:
        directory(CORPUS),
    log:
        "results/logs/data/{domain}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        spec=planned_spec(CORPUS),
        key=planned_key(CORPUS),
        inputs=planned_options(CORPUS),
    shell:
        "python -m pipelines data build --spec {params.spec:q}"
        " {params.inputs} --out {output} 2> {log}"


rule labelled_tasks:
    """Collect the labelled tasks of continual finetuning."""
    input:
        unpack(planned_inputs(TASKS)),
    output:
        directory(TASKS),
    log:
        "results/logs/data/tasks.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        spec=planned_spec(TASKS),
        key=planned_key(TASKS),
        inputs=planned_options(TASKS),
    shell:
        "python -m pipelines data tasks --spec {params.spec:q}"
        " {params.inputs} --out {output} 2> {log}"
