TOKENIZER = f"results/tokenizer/{RUN}"
VOCABULARY = f"results/vocabulary/{RUN}"
TOKENS = f"results/tokens/{RUN}"


rule tokenizer:
    """Train a tokenizer."""
    input:
        unpack(planned(TOKENIZER, inputs)),
    output:
        directory(TOKENIZER),
    log:
        "results/logs/tokenizer/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(TOKENIZER, key),
        options=options,
    shell:
        "python -m pipelines tokenizer train --key {params.key} {params.options}"
        " --out {output} 2> {log}"


rule vocabulary:
    """Measure a tokenizer on text it has and has not seen."""
    input:
        unpack(planned(VOCABULARY, inputs)),
    output:
        directory(VOCABULARY),
    log:
        "results/logs/vocabulary/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(VOCABULARY, key),
        options=options,
    shell:
        "python -m pipelines tokenizer measure --key {params.key} {params.options}"
        " --out {output} 2> {log}"


rule tokens:
    """Tokenize a corpus into Megatron's indexed dataset."""
    input:
        unpack(planned(TOKENS, inputs)),
    output:
        directory(TOKENS),
    log:
        "results/logs/tokens/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(TOKENS, key),
        options=options,
    shell:
        "python -m pipelines tokenizer tokenize --key {params.key} {params.options}"
        " --out {output} 2> {log}"
