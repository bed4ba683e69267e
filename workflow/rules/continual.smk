FINETUNED = f"results/continual/{RUN}"


rule continual:
    """Finetune a model on one task after another."""
    input:
        unpack(planned_inputs(FINETUNED)),
    output:
        directory(FINETUNED),
    log:
        "results/logs/continual/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        spec=planned_spec(FINETUNED),
        key=planned_key(FINETUNED),
        inputs=planned_options(FINETUNED),
    shell:
        "python -m pipelines continual finetune --spec {params.spec:q}"
        " {params.inputs} --out {output} 2> {log}"
