"""``runs explain PATH``: why an artifact is what it is, and what differs from what is wanted or stored."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipelines.runs.differences import Parts, describe
from pipelines.runs.known import Explanation, Known
from pipelines.runs.records import flatten
from pipelines.runs.store import open_store

# Of a long spec; --json has all of it.
MOST_VALUES = 60
CONTROL = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n")}, "?")


@click.command(
    "explain",
    help="Why the artifact at PATH is what it is, and what differs from what the parameters want. It may be planned"
    " only; a table, a plot or the claims stand for the artifact they lie in.",
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option(
    "--configfile",
    "configfiles",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="overlay of params.yaml, as given to snakemake; repeat it for several",
)
@click.option("--json", "as_json", is_flag=True, help="everything, as a JSON list with one entry a path")
def explain(paths: tuple[Path, ...], configfiles: tuple[Path, ...], as_json: bool) -> None:
    """Print a page, or JSON, a path."""
    # The graph knows what is wanted, and this command is the one thing here that asks it.
    from pipelines.store.wanted import artifact_of, plan_wanted, relative_to_checkout

    known = Known(plan_wanted(configfiles), open_store())
    found = [known.explain(artifact_of(relative_to_checkout(path))) for path in paths]
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        click.echo("\n\n".join(map(_page, found)))


# The page


def _page(found: Explanation) -> str:
    rows = [("key", found.parts.key), *_made(found), *_parts(found.parts), *_verdict(found)]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1_000_000
    lines = [
        textwrap.fill(
            text,
            width,
            initial_indent=f"  {name:<9} ",
            subsequent_indent=" " * 12,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for name, text in rows
    ]
    # Terminals obey control characters, and a record from the store may be anyone's.
    return "\n".join([found.path, *lines]).translate(CONTROL)


def _made(found: Explanation) -> list[tuple[str, str]]:
    run = found.run
    if run is None:
        return [("made", "not yet")]
    rows = [("computed", _origin(run))]
    if run.get("restored_at"):
        rows.append(("restored", f"{run['restored_at']}, from the store"))
    if run.get("mlflow_run_id"):
        rows.append(("mlflow", f"run {run['mlflow_run_id']}"))
    return rows


def _origin(run: Mapping[str, Any]) -> str:
    ranks = run.get("world_size", 1)
    where = f", {ranks} {'process' if ranks == 1 else 'processes'}" + (
        f" on {run['device']}" if run.get("device") else ""
    )
    commit = f" at commit {run['git_commit']}" if run.get("git_commit") else ""
    return f"{run['started']}{commit} in {run['seconds']:.1f} s{where}"


def _parts(parts: Parts) -> list[tuple[str, str]]:
    values = [f"{name} {json.dumps(value)}" for name, value in flatten(parts.spec).items()]
    if len(values) > MOST_VALUES:
        values[MOST_VALUES:] = [f"and {len(values) - MOST_VALUES} more (--json has all)"]
    rows = [("verb", f"{parts.stage} {parts.verb}"), ("spec", ", ".join(values) or "nothing")]
    for name, given in parts.inputs.items():
        for each in given:
            rows.append(("input", f"{name}: {each.path or 'of an unknown place'} ({each.key[:12]})"))
    files = f": {', '.join(parts.code)}" if parts.code else ""
    rows.append(("code", f"digest {parts.code_digest[:12]}{files}"))
    rows.append(("packages", ", ".join(f"{name} {version}" for name, version in parts.versions.items()) or "none"))
    return rows


def _verdict(found: Explanation) -> list[tuple[str, str]]:
    """What the parameters want of it, and what the store has."""
    stored = f"stored: computed {_origin(found.stored)}" if found.stored else "not stored"
    differs = describe(found.differs) or "the same, in another order"
    if found.run is None:
        if found.stored:
            return [("wanted", "yes"), ("store", f"{stored}; the next run restores it")]
        near = found.nearest
        if near is None:
            return [("wanted", "yes"), ("store", "nothing of this verb is stored; the next run computes it")]
        place = f"nearest: {near['path']} ({near['key'][:12]}), computed {_origin(near)}"
        return [("wanted", "yes"), ("store", f"not stored; the next run computes it; {place}"), ("differs", differs)]
    if found.wanted_key is None:
        code = "as the code here would make it" if not found.differs else f"the code here would make another: {differs}"
        return [("wanted", f"by no table of the current parameters; {code}"), ("store", stored)]
    if found.wanted_key == found.parts.key:
        return [("wanted", "yes, as it is"), ("store", stored)]
    after = "the next run restores it" if found.stored else "the next run computes it"
    return [
        ("wanted", f"no, but {found.wanted_key}"),
        ("differs", differs),
        ("store", f"the wanted one is {stored}; {after}"),
    ]
