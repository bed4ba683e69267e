PRETRAINED = f"results/pretrain/{RUN}"
EXPORTED = f"results/export/{{stage}}/{RUN}"


rule pretrain:
    """Train a dense model from scratch."""
    input:
        unpack(planned_inputs(PRETRAINED)),
    output:
        directory(PRETRAINED),
    log:
        "results/logs/pretrain/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        launcher="",
        ranks=1,
    params:
        spec=planned_spec(PRETRAINED),
        key=planned_key(PRETRAINED),
        inputs=planned_options(PRETRAINED),
    shell:
        "{resources.launcher} python -m pipelines pretrain train --spec {params.spec:q}"
        " --exec '{{\"processes\": {resources.ranks}}}'"
        " {params.inputs} --out {output} 2> {log}"


rule export:
    """Rename a checkpoint into a Hugging Face model."""
    input:
        unpack(planned_inputs(EXPORTED)),
    output:
        directory(EXPORTED),
    log:
        "results/logs/export/{stage}/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        spec=planned_spec(EXPORTED),
        key=planned_key(EXPORTED),
        inputs=planned_options(EXPORTED),
    shell:
        "python -m pipelines megatron export --spec {params.spec:q}"
        " {params.inputs} --out {output} 2> {log}"
