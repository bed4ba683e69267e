TOKENIZER = f"results/tokenizer/{RUN}"
VOCABULARY = f"results/vocabulary/{RUN}"
TOKENS = f"results/tokens/{RUN}"


rule tokenizer:
    """Train a tokenizer."""
    input:
        unpack(planned_inputs(TOKENIZER)),
    output:
        directory(TOKENIZER),
    log:
        "results/logs/tokenizer/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        spec=planned_spec(TOKENIZER),
        key=planned_key(TOKENIZER),
        inputs=planned_options(TOKENIZER),
    shell:
        "python -m pipelines tokenizer train --spec {params.spec:q}"
        " {params.inputs} --out {output} 2> {log}"


rule vocabulary:
    """Measure a tokenizer on text it has and has not seen."""
    input:
        unpack(planned_inputs(VOCABULARY)),
    output:
        directory(VOCABULARY),
    log:
        "results/logs/vocabulary/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        spec=planned_spec(VOCABULARY),
        key=planned_key(VOCABULARY),
        inputs=planned_options(VOCABULARY),
    shell:
        "python -m pipelines tokenizer measure --spec {params.spec:q}"
        " {params.inputs} --out {output} 2> {log}"


rule tokens:
    """Tokenize a corpus into Megatron's indexed dataset."""
    input:
        unpack(planned_inputs(TOKENS)),
    output:
        directory(TOKENS),
    log:
        "results/logs/tokens/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        spec=planned_spec(TOKENS),
        key=planned_key(TOKENS),
        inputs=planned_options(TOKENS),
    shell:
        "python -m pipelines tokenizer tokenize --spec {params.spec:q}"
        " {params.inputs} --out {output} 2> {log}"
