EXPERTS = f"results/moe/{RUN}"


rule moe:
    """Train a mixture-of-experts model, its experts spread over the ranks."""
    input:
        unpack(planned_inputs(EXPERTS)),
    output:
        directory(EXPERTS),
    log:
        "results/logs/moe/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 2
    resources:
        launcher="",
        ranks=2,
        expert_parallel=2,
    params:
        spec=planned_spec(EXPERTS),
        key=planned_key(EXPERTS),
        inputs=planned_options(EXPERTS),
    shell:
        "{resources.launcher} python -m pipelines moe train --spec {params.spec:q}"
        ' --exec \'{{"processes": {resources.ranks}, "expert_model_parallel_size": {resources.expert_parallel}}}\''
        " {params.inputs} --out {output} 2> {log}"
