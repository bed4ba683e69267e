FORECAST = f"results/forecast/{RUN}"
POSITIONS = f"results/positions/{{stage}}/{RUN}"


rule forecast:
    """Forecast the loss of later training from early training."""
    input:
        unpack(planned(FORECAST, inputs)),
    output:
        directory(FORECAST),
    log:
        "results/logs/forecast/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(FORECAST, key),
        options=options,
    shell:
        "python -m pipelines forecast predict --key {params.key} {params.options}"
        " --out {output} 2> {log}"


rule positions:
    """Fit the law of loss over positions to every evaluation of a training."""
    input:
        unpack(planned(POSITIONS, inputs)),
    output:
        directory(POSITIONS),
    log:
        "results/logs/positions/{stage}/{method}/{setting}/seed{seed}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        key=planned(POSITIONS, key),
        options=options,
    shell:
        "python -m pipelines forecast positions --key {params.key} {params.options}"
        " --out {output} 2> {log}"
