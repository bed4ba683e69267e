PAIRS = "results/data/pairs"
TRANSLATION = f"results/translation/{RUN}"


rule pairs:
    """Read parallel text into pairs of sentences."""
    input:
        unpack(planned(PAIRS, inputs)),
    output:
        directory(PAIRS),
    log:
        "results/logs/data/pairs.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(PAIRS, key),
        options=options,
    shell:
        "python -m pipelines translation pairs --key {params.key} {params.options}"
        " --out {output} 2> {log}"


rule translation:
    """Train a translation model and score its translations."""
    input:
        unpack(planned(TRANSLATION, inputs)),
    output:
        directory(TRANSLATION),
    log:
        "results/logs/translation/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(TRANSLATION, key),
        options=options,
    shell:
        "python -m pipelines translation train --key {params.key} {params.options}"
        " --out {output} 2> {log}"
