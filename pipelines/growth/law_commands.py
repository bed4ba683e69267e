"""``growth guideline`` and ``growth fit-law``: the published rules, and a law from one's own runs."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.growth.guideline import ADVISED_FACTOR, advise
from pipelines.runs.errors import RetraceError

LOSSES = ("loss", "val_loss", "interim_val_loss")


@click.command()
@click.option("--parameters", type=float, required=True, help="N, parameters of the target, as a count (1.1e9)")
@click.option("--tokens", type=float, required=True, help="D, tokens the target would be trained on (1e11)")
@click.option("--extrapolate", is_flag=True, help="answer outside 410M to 3B parameters and 1e20 to 1.2e21 FLOPs too")
def guideline(parameters: float, tokens: float, extrapolate: bool) -> None:
    """Print growth timing and factor by the published rules of arXiv 2405.15319.

    log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74 and log10 g = 1.01 log10 N - 29.88 / log10 C - 7.36, with
    C = 6 N D. Refuses to answer outside the range they were fitted for.
    """
    advice = advise(parameters, tokens, extrapolate=extrapolate)
    for reason in advice.outside:
        click.echo(f"warning: {reason}", err=True)
    click.echo(f"C = 6 N D      {advice.flops:.4g} FLOPs")
    click.echo(f"growth_timing  {advice.growth_timing / 1e9:.4g} billion tokens of base training (d)")
    click.echo(
        f"growth_factor  {ADVISED_FACTOR} (g, as the authors advise; their fit, which they call mediocre, ", nl=False
    )
    click.echo(f"gives {advice.growth_factor:.3g})")


@click.command("fit-law")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--points", type=click.Path(path_type=Path), help="CSV: num_parameters, flops, growth_timing, loss")
@click.option("--levels", type=click.IntRange(1), default=3, show_default=True, help="levels of FLOPs a size (RUNS)")
@click.option("--loss", type=click.Choice(LOSSES), default="loss", show_default=True)
@click.option("--window", type=click.IntRange(1), default=5, show_default=True, help="logged points averaged (RUNS)")
def fit_law_command(runs: tuple[Path, ...], points: Path | None, levels: int, loss: str, window: int) -> None:
    """Fit log10 d = a log10 N + b / log10 C + c to RUNS, folders of `growth train`, or to --points.

    Per level of FLOPs a parabola over log10 d gives the best d; the law is fitted to those. What the points cannot
    tell is printed as a warning, and no number is made up for it.

    \b
    python -m pipelines growth fit-law results/growth/stack/pretrain.train_bytes=*/seed*
    """
    from pipelines.growth.fitted_law import fit_law
    from pipelines.growth.points import points_of_runs, read_points

    if bool(runs) == (points is not None):
        raise RetraceError("give either folders of growth runs or --points, a CSV file")
    law = fit_law(read_points(points) if points is not None else points_of_runs(runs, levels, loss, window))
    for warning in law.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("parameters   FLOPs        best d       loss")
    for each in law.minima:
        click.echo(f"{each.num_parameters:<12.4g} {each.flops:<12.4g} {each.growth_timing:<12.4g} {each.loss:.4f}")
    for name, value in law.coefficients.items():
        click.echo(f"{name} = {value:.6g}")
    if law.residual is not None:
        click.echo(f"residual of log10 d: {law.residual:.4g}")
