"""``store publish``: the artifacts behind the current tables, as a file of DVC's own that git holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.runs.cache import temporary_name
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import ROOT
from pipelines.runs.remote import RemoteAway, open_remote
from pipelines.runs.store import Record
from pipelines.store.console import command, configfile, count, need_store, remote_name, some
from pipelines.store.published import PUBLISHED
from pipelines.store.wanted import plan_wanted

if TYPE_CHECKING:
    from workflow.plan import PlannedJob

EXAMPLES = """
publish && git add published.dvc && git commit   # then: python -m pipelines store share
"""
HEADER = """\
# Every artifact that the tables of this commit were made from; `python -m pipelines store publish` writes this file.
# `dvc pull published.dvc` brings exactly these bytes, without Snakemake.
"""


@command("publish", EXAMPLES)
@remote_name
@configfile
def publish(remote: str | None, configfiles: tuple[Path, ...]) -> None:
    """Write published.dvc: every artifact that the current tables were made from, with its digest, for git to hold.

    Whoever checks that commit out gets exactly these bytes with `dvc fetch published.dvc` (into the store) or
    `dvc pull published.dvc` (into results/ as well; it wants them absent there, or --force to replace what differs).
    `store share` sends them, and `store gc` keeps them as long as a branch or tag has the file.
    """
    store = need_store()
    jobs = plan_wanted(configfiles)
    team = open_remote(ROOT, remote)
    if team is not None:
        try:
            team.fetch_records(store, [job.key for job in jobs.values()])
        except RemoteAway as away:
            click.echo(f"warning: {away}", err=True)
    records = {path: store.record(job.key) for path, job in jobs.items()}
    absent = [path for path, record in records.items() if record is None]
    if absent:
        raise RetraceError(
            f"{count(len(absent), 'artifact')} of the current tables not in the store: {some(absent)}."
            " Run `snakemake --cores all paper_tables`, or `python -m pipelines store fetch`, first"
        )
    text = HEADER + published_text(jobs, {path: record for path, record in records.items() if record})
    path = ROOT / PUBLISHED
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        click.echo(f"{PUBLISHED} is up to date: {count(len(jobs), 'artifact')}")
        return
    partial = temporary_name(path)
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    click.echo(f"wrote {PUBLISHED}: {count(len(jobs), 'artifact')}. Commit it, and `python -m pipelines store share`")


def published_text(jobs: dict[str, PlannedJob], records: dict[str, Record]) -> str:
    """The stored folders as outputs in DVC's format, by path."""
    import yaml

    outs: list[dict[str, Any]] = [
        {
            "path": path,
            "md5": record.tree,
            "size": record.size,
            "nfiles": len(record.files),
            "hash": "md5",
            "meta": {"key": jobs[path].key},
        }
        for path, record in sorted(records.items())
    ]
    return yaml.safe_dump({"outs": outs}, sort_keys=False, width=200)
