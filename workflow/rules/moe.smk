EXPERTS = f"results/moe/{RUN}"


rule moe:
    """Train a mixture-of-experts model, its experts spread over the ranks."""
    input:
        unpack(planned(EXPERTS, inputs)),
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
        key=planned(EXPERTS, key),
        options=options,
    shell:
        "{resources.launcher} python -m pipelines moe train --key {params.key} {params.options}"
        ' --exec \'{{"processes": {resources.ranks}, "expert_model_parallel_size": {resources.expert_parallel}}}\''
        " --out {output} 2> {log}"
