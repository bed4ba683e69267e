"""``store gc``: delete the records and objects that nobody needs any more."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import ROOT
from pipelines.runs.remote import Remote, objects_of
from pipelines.runs.store import Record, Store
from pipelines.store.console import command, configfile, count, in_bytes, need_remote, need_store
from pipelines.store.published import tracked_objects, trees_of_refs
from pipelines.store.wanted import plan_wanted

EXAMPLES = """
gc --dry-run              # what it would free
gc                        # asks first
gc --days 7 --yes         # in a script
gc --remote               # the team's remote: mind the branches that are not in this clone
"""
DAY = 86400.0


@dataclass(frozen=True)
class Collection:
    """What is kept and what goes.

    Attributes:
        kept: why -> records kept for that reason, each counted once.
        records, objects: what is deleted; objects with their bytes.
    """

    kept: dict[str, int]
    records: list[Record]
    objects: dict[str, int]


@command("gc", EXAMPLES)
@click.option("--days", default=30.0, show_default=True, help="keep what was used in as many days")
@click.option("--dry-run", is_flag=True, help="only say what would go")
@click.option("--yes", is_flag=True, help="do not ask")
@click.option("--remote", is_flag=False, flag_value="", metavar="[NAME]", help="collect on a remote and not here")
@configfile
def gc(days: float, dry_run: bool, yes: bool, remote: str | None, configfiles: tuple[Path, ...]) -> None:
    """Delete artifacts from the store that nobody needs.

    Kept is what the current tables need (name the overlays you work with by --configfile), what published.dvc of any
    git branch or tag names, and what was used in the last --days. Objects that other .dvc files or dvc.lock track stay,
    and so do objects of no record: another project may share the cache. results/ is left alone.
    """
    store = need_store()
    team = None if remote is None else need_remote(remote or None)
    wanted = {job.key for job in plan_wanted(()).values()}
    if configfiles:
        wanted |= {job.key for job in plan_wanted(configfiles).values()}
    since = time.time() - days * DAY
    if not team and not dry_run:
        _remove_leftovers(store, time.time() - DAY)
    found = collect_remote(store, team, wanted, since) if team else collect_store(store, wanted, since)

    where = f"remote {team.name} ({team.url})" if team else "the store here"
    click.echo(f"{where} keeps {', '.join(f'{number} {why}' for why, number in found.kept.items())}")
    freed = f"{count(len(found.records), 'record')}, {count(len(found.objects), 'object')}"
    freed += f", {in_bytes(sum(found.objects.values()))}"
    if not found.records:
        click.echo("nothing to free")
        return
    click.echo(f"{'would free' if dry_run else 'frees'} {freed}")
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise RetraceError("gc asks before it deletes, and nobody is at the terminal: give --yes, or --dry-run")
        click.confirm("Delete them?", abort=True)
    # Records first: a reader never finds one whose objects are going.
    keys = [record.key for record in found.records]
    if team:
        team.remove_records(keys)
        team.remove_objects(found.objects)
    else:
        _remove_here(store, keys, found.objects)
    click.echo(f"freed {freed}")


def _remove_leftovers(store: Store, before: float) -> None:
    """Delete what jobs were writing when they were killed; younger files may still be written to."""
    for folder in (store.cache.objects_folder, store.records_folder):
        for path in folder.glob("??/.*.tmp"):
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()


def _remove_here(store: Store, keys: Iterable[str], objects: Iterable[str]) -> None:
    try:
        for key in keys:
            store.remove(key)
        for name in objects:
            store.cache.remove(name)
    except OSError as fault:
        raise RetraceError(f"cannot delete: {fault}; what is deleted by now stays so, and the rest is whole") from None


def collect_store(store: Store, wanted: set[str], since: float) -> Collection:
    """What can go from the store here.

    Args:
        wanted: keys of the jobs that the current tables need.
        since: time (seconds since 1970) from when a use keeps a record, and a renewed object.
    """
    published = trees_of_refs(ROOT)
    kept, gone, counts = _sift(store.records(), wanted, published, lambda record: _used(store, record.key) >= since)
    staying = objects_of(kept).keys() | tracked_objects(ROOT)
    objects = {
        name: size
        for name, size in objects_of(gone).items()
        # A job that runs now may have put this very object again, its record not yet written.
        if name not in staying and store.cache.has(name, size) and store.cache.path(name).stat().st_mtime < since
    }
    return Collection(counts, gone, objects)


def collect_remote(store: Store, remote: Remote, wanted: set[str], since: float) -> Collection:
    """What can go from a remote. It does not know of uses: the day an artifact was stored counts, and uses here."""
    published = trees_of_refs(ROOT)
    records = remote.read_records(remote.list_records()).values()

    def recent(record: Record) -> bool:
        return max(_used(store, record.key), _stored(record)) >= since

    kept, gone, counts = _sift(records, wanted, published, recent)
    staying = objects_of(kept).keys() | tracked_objects(ROOT) | published
    known = {record.tree for record in kept} | {record.tree for record in gone}
    for text in remote.read_objects(published - known).values():
        # A tree that git holds and another record has replaced: its list alone says what it needs.
        staying |= {str(row["md5"]) for row in json.loads(text)}
    objects = remote.sizes(objects_of(gone).keys() - staying)
    return Collection(counts, gone, objects)


def _sift(
    records: Iterable[Record], wanted: set[str], published: set[str], recent: Callable[[Record], bool]
) -> tuple[list[Record], list[Record], dict[str, int]]:
    """Records kept, records gone, and how many are kept for which reason."""
    counts = {"for the current tables": 0, "published in git": 0, "used lately": 0}
    kept, gone = [], []
    for record in records:
        reasons = (record.key in wanted, record.tree in published, recent(record))
        if not any(reasons):
            gone.append(record)
            continue
        kept.append(record)
        counts[list(counts)[reasons.index(True)]] += 1
    return kept, gone, counts


def _used(store: Store, key: str) -> float:
    """When a record here was last used, in seconds since 1970; 0 when it is not here."""
    with suppress(OSError):
        return store.path(key).stat().st_mtime
    return 0.0


def _stored(record: Record) -> float:
    try:
        return datetime.fromisoformat(record.stored).timestamp()
    except ValueError:
        return 0.0
