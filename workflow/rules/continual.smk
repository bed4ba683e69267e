FINETUNED = f"results/continual/{RUN}"


rule continual:
    """Finetune a model on one task after another."""
    input:
        unpack(planned(FINETUNED, inputs)),
    output:
        directory(FINETUNED),
    log:
        "results/logs/continual/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(FINETUNED, key),
        options=options,
    shell:
        "python -m pipelines continual finetune --key {params.key} {params.options}"
        " --out {output} 2> {log}"
