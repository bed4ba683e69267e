PRETRAINED = f"results/pretrain/{RUN}"
EXPORTED = f"results/export/{{stage}}/{RUN}"


rule pretrain:
    """Train a dense model from scratch."""
    input:
        unpack(planned(PRETRAINED, inputs)),
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
        key=planned(PRETRAINED, key),
        options=options,
    shell:
        "{resources.launcher} python -m pipelines pretrain train --key {params.key} {params.options}"
        " --exec '{{\"processes\": {resources.ranks}}}'"
        " --out {output} 2> {log}"


rule export:
    """Rename a checkpoint into a Hugging Face model."""
    input:
        unpack(planned(EXPORTED, inputs)),
    output:
        directory(EXPORTED),
    log:
        "results/logs/export/{stage}/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(EXPORTED, key),
        options=options,
    shell:
        "python -m pipelines megatron export --key {params.key} {params.options}"
        " --out {output} 2> {log}"
