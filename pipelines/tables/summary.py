"""tables summary: where the tables are, the chain's table, and one line a claim."""

from __future__ import annotations

import csv
from pathlib import Path

import click

from pipelines.runs.errors import RetraceError

CLAIMS = "claims.csv"


@click.command(help="Print where the tables are, the chain's table and one line a claim.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="folder with tables/ and claims.csv",
)
def summary(results: Path) -> None:
    """Print the outcome of a run of the graph."""
    for line in lines(results):
        click.echo(line)


def lines(results: Path) -> list[str]:
    """What the summary prints.

    Raises:
        RetraceError: there are no tables or claims yet.
    """
    tables = sorted((results / "tables").glob("*/*.md"))
    claims = results / CLAIMS
    if not tables or not claims.is_file():
        raise RetraceError(f"{results} has no tables or no {CLAIMS}: run `snakemake --cores all paper_tables` first")
    chain = results / "tables" / "chain" / "chain.md"
    said = []
    if chain.is_file():
        said += [line for line in chain.read_text(encoding="utf-8").splitlines() if line.startswith(("# ", "|"))]
        said.append("")
    papers = sorted({table.parent.name for table in tables})
    said.append(f"tables: {results / 'tables'}/<paper>/*.md ({', '.join(papers)}); claims: {claims.with_suffix('.md')}")
    with claims.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    width = max((len(line["verdict"]) for line in found), default=0)
    said += [f"{line['verdict']:<{width}}  {line['paper']}: {line['says']} {_numbers(line)}" for line in found]
    return said


def _numbers(line: dict[str, str]) -> str:
    if not line["difference"]:
        return f"({line['detail']})"
    unit = f" {line['unit']}" if line["unit"] else ""
    interval = f" [{float(line['low']):+.4g}, {float(line['high']):+.4g}]" if line["low"] else ""
    return f"({line['metric']} {float(line['difference']):+.4g}{interval}{unit}, n={line['n']})"
