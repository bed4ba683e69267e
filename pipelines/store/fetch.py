"""``store fetch``: records and objects of a remote into the store here. Nothing is put into results/."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipelines.runs.remote import RemoteFault
from pipelines.store.console import (
    byte_bar,
    command,
    configfile,
    count,
    in_bytes,
    need_remote,
    need_store,
    remote_name,
    some,
)
from pipelines.store.wanted import plan_wanted, select

EXAMPLES = """
fetch                                       # what the tables of params.yaml need
fetch results/tables/gstack/operators.md    # one paper's artifact, with its tables
fetch results/growth/stack/default/seed0    # one model
fetch --records-only                        # what lazy mode needs: who computed what
"""


@command("fetch", EXAMPLES)
@click.argument("targets", nargs=-1)
@click.option("--records-only", is_flag=True, help="the small records, and objects only when a job asks for them")
@remote_name
@configfile
def fetch(targets: tuple[str, ...], records_only: bool, remote: str | None, configfiles: tuple[Path, ...]) -> None:
    """Bring the team's artifacts into the store here: all that the current tables need, or TARGETS.

    TARGETS are artifacts (folders below results/), folders of them, tables or plots. The next `snakemake` takes them
    from the store in place of computing. Every object is verified as it arrives.
    """
    store, team = need_store(), need_remote(remote)
    jobs = select(plan_wanted(configfiles), targets)
    brought = team.fetch_records(store, [job.key for job in jobs])
    records = {job.path: record for job in jobs if (record := store.record(job.key)) is not None}
    lacking = {each.md5: each.size for record in records.values() for each in store.missing(record)}
    fault = None
    if not records_only:
        try:
            with byte_bar(f"fetching from {team.name}", sum(lacking.values())) as tell:
                team.fetch_objects(store, records.values(), tell)
        except RemoteFault as found:
            fault = found
            lacking = {name: size for name, size in lacking.items() if name not in found.objects}
    else:
        lacking = {}

    if brought or lacking:
        got = f"{count(len(brought), 'record')} and {count(len(lacking), 'object')} ({in_bytes(sum(lacking.values()))})"
        click.echo(f"fetched {got} from {team.name} ({team.url})")
    elif fault is None:
        click.echo(f"nothing to do: all that {team.name} ({team.url}) has of {count(len(jobs), 'artifact')} is here")
    absent = [job.path for job in jobs if job.path not in records]
    if absent:
        click.echo(f"{count(len(absent), 'artifact')} not there, to be computed: {some(absent)}", err=True)
    if fault is not None:
        hit = [path for path, record in records.items() if store.missing(record)]
        click.echo(f"error: {fault}. It concerns {some(hit)}", err=True)
        sys.exit(1)
