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


LEVEL = "results/levels/{step}/{setting}/seed{seed}"


rule level:
    """Take a model down or up a level of a V-cycle, or mix what came back with what went down."""
    input:
        unpack(planned(LEVEL, inputs)),
    output:
        directory(LEVEL),
    log:
        "results/logs/levels/{step}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        verb=planned(LEVEL, verb),
        key=planned(LEVEL, key),
        options=options,
    shell:
        "python -m pipelines growth {params.verb} --key {params.key} {params.options}"
        " --out {output} 2> {log}"
