"""``store status``: by stage, what the current tables need and where it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.runs.identity import ROOT, RUN_RECORD
from pipelines.runs.remote import Remote, RemoteAway, open_remote
from pipelines.runs.store import Record, Store
from pipelines.store.console import command, configfile, in_bytes, in_seconds, need_store, remote_name
from pipelines.store.wanted import plan_wanted

if TYPE_CHECKING:
    from workflow.plan import PlannedJob

EXAMPLES = """
status                                  # of params.yaml
status --configfile params/smoke.yaml   # of another scale
status --jobs                           # one line an artifact
"""
COLUMNS = ("stage", "wanted", "results", "store", "remote", "missing", "bytes", "computing")


@dataclass(frozen=True)
class Place:
    """Where one wanted artifact is.

    Attributes:
        in_results: it lies in its folder, of this very job.
        in_store: its record and all its objects are in the store here.
        on_remote: its record is on the remote; None when nobody could be asked.
        size, seconds: bytes, and what computing it took; None when no record of it is at hand.
    """

    path: str
    stage: str
    in_results: bool
    in_store: bool
    on_remote: bool | None
    size: int | None
    seconds: float | None

    @property
    def missing(self) -> bool:
        """True when it would have to be computed."""
        return not (self.in_results or self.in_store or self.on_remote)


@command("status", EXAMPLES)
@click.option("--jobs", "each_job", is_flag=True, help="one line an artifact")
@remote_name
@configfile
def status(each_job: bool, remote: str | None, configfiles: tuple[Path, ...]) -> None:
    """Say where what the current tables need is: in results, in the store here, on the remote, or missing.

    Works without a remote, and says so when it is away.
    """
    store = need_store()
    jobs = plan_wanted(configfiles)
    held: dict[str, Record] | None = None
    team = open_remote(ROOT, remote)
    if team is None:
        said = "no remote is set (`dvc remote add -d NAME URL`): only what is here is known"
    else:
        held, said = _ask(team, [job.key for job in jobs.values()])
    places = [_place(store, job, held) for job in jobs.values()]
    if each_job:
        for place in places:
            click.echo(_line(place))
    else:
        _print_table(places)
    click.echo(said, err=held is None)


def _ask(team: Remote, keys: list[str]) -> tuple[dict[str, Record] | None, str]:
    """Records on the remote, None when it is away; and what to say of it."""
    try:
        return team.read_records(keys), f"remote: {team.name} ({team.url})"
    except RemoteAway as away:
        return None, f"warning: {away}"


def _place(store: Store, job: PlannedJob, held: dict[str, Record] | None) -> Place:
    here = store.record(job.key)
    known = here or (held or {}).get(job.key)
    run = _run_in_results(ROOT / job.path, job.key)
    seconds = (known.run if known else run or {}).get("seconds")
    return Place(
        job.path,
        job.stage,
        run is not None,
        here is not None and not store.missing(here),
        None if held is None else job.key in held,
        known.size if known else None,
        float(seconds) if isinstance(seconds, int | float) else None,
    )


def _run_in_results(folder: Path, key: str) -> dict[str, object] | None:
    """The run record of an artifact, when it is of this key."""
    try:
        run = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return run if isinstance(run, dict) and run.get("key") == key else None


def _line(place: Place) -> str:
    where = [name for name, there in zip(COLUMNS[2:5], _flags(place), strict=True) if there]
    facts = [in_bytes(place.size)] if place.size is not None else []
    facts += [in_seconds(place.seconds)] if place.seconds is not None else []
    return "  ".join([place.path, ", ".join(where) or "missing", *facts])


def _flags(place: Place) -> tuple[bool, bool, bool]:
    return place.in_results, place.in_store, bool(place.on_remote)


def _print_table(places: Iterable[Place]) -> None:
    stages: dict[str, list[Place]] = {}
    for place in places:
        stages.setdefault(place.stage, []).append(place)
    rows = [COLUMNS, *(_row(stage, each) for stage, each in stages.items())]
    rows.append(_row("all", [place for each in stages.values() for place in each]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        click.echo(
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        )


def _row(stage: str, places: list[Place]) -> tuple[str, ...]:
    on_remote = "?" if any(place.on_remote is None for place in places) else str(sum(_flags(p)[2] for p in places))
    return (
        stage,
        str(len(places)),
        str(sum(place.in_results for place in places)),
        str(sum(place.in_store for place in places)),
        on_remote,
        str(sum(place.missing for place in places)),
        in_bytes(sum(place.size or 0 for place in places)),
        in_seconds(sum(place.seconds or 0.0 for place in places)),
    )
