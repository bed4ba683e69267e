GROWN = f"results/growth/{RUN}"


rule growth:
    """Grow a trained model and train it on, at the FLOPs of training from scratch."""
    input:
        unpack(planned(GROWN, inputs)),
    output:
        directory(GROWN),
    log:
        "results/logs/growth/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        launcher="",
        ranks=1,
    params:
        key=planned(GROWN, key),
        options=options,
    shell:
        "{resources.launcher} python -m pipelines growth train --key {params.key} {params.options}"
        " --exec '{{\"processes\": {resources.ranks}}}'"
        " --out {output} 2> {log}"
