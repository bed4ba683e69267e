CORPUS = "results/data/{domain}/seed{seed}"
TASKS = "results/data/tasks"


rule corpus:
    """Collect a corpus and split it by module."""
    input:
        unpack(planned(CORPUS, inputs)),
    output:
        directory(CORPUS),
    log:
        "results/logs/data/{domain}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(CORPUS, key),
        options=options,
    shell:
        "python -m pipelines data build --key {params.key} {params.options}"
        " --out {output} 2> {log}"


rule labelled_tasks:
    """Collect the labelled tasks of continual finetuning."""
    input:
        unpack(planned(TASKS, inputs)),
    output:
        directory(TASKS),
    log:
        "results/logs/data/tasks.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(TASKS, key),
        options=options,
    shell:
        "python -m pipelines data tasks --key {params.key} {params.options}"
        " --out {output} 2> {log}"
