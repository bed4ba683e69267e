GROWN = f"results/growth/{RUN}"


rule growth:
    """Grow a trained model and train it on, at the FLOPs of training from scratch."""
    input:
        unpack(planned_inputs(GROWN)),
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
        spec=planned_spec(GROWN),
        key=planned_key(GROWN),
        inputs=planned_options(GROWN),
    shell:
        "{resources.launcher} python -m pipelines growth train --spec {params.spec:q}"
        " --exec '{{\"processes\": {resources.ranks}}}'"
        " {params.inputs} --out {output} 2> {log}"
