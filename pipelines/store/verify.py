"""``store verify``: read every object and every record, and remove what is not what its name says."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import click

from pipelines.runs.errors import RetraceError
from pipelines.runs.remote import Remote, objects_of
from pipelines.runs.store import Record, Store
from pipelines.store.console import byte_bar, command, count, in_bytes, need_remote, need_store, some

EXAMPLES = """
verify                    # the store here
verify --remote           # the default remote: everything is read, so it takes as long as fetching all
verify --remote archive   # another one
"""


@command("verify", EXAMPLES)
@click.option("--remote", is_flag=False, flag_value="", metavar="[NAME]", help="check a remote and not the store here")
def verify(remote: str | None) -> None:
    """Check every object's digest and every record, and remove what is damaged.

    What is removed here comes back by `store fetch` or by the next run of its job; what is removed from a remote by the
    next `store share` of someone who has it. Exit status 1 when something was damaged.
    """
    store = need_store()
    if remote is None:
        _report(verify_store(store), "`python -m pipelines store fetch`, or the next run of the job, brings it back")
    else:
        team = need_remote(remote or None)
        _report(verify_remote(team), "`python -m pipelines store share` by someone who has it sends it again")


@dataclass(frozen=True)
class Findings:
    """What a check found.

    Attributes:
        checked: what was read, in words.
        records: those that could be read.
        damaged: objects that were removed.
        lost: objects that records name and that are not there; here that is no fault, as they may be on the remote.
        refused: number of records that could not be trusted.
    """

    checked: str
    records: list[Record]
    damaged: list[str]
    lost: list[str]
    refused: int


def verify_store(store: Store) -> Findings:
    """Check the store here."""
    files = len(list(store.records_folder.glob("??/*.json")))
    # Reading a record checks it; one that is refused is set aside with a warning.
    records = list(store.records())
    objects = dict(store.cache.objects())
    damaged = []
    with byte_bar("verifying", sum(objects.values())) as tell:
        for name, size in objects.items():
            if not store.cache.is_sound(name):
                damaged.append(name)
                _remove(store, name)
            tell(size)
    checked = f"{count(files, 'record')} and {count(len(objects), 'object')} ({in_bytes(sum(objects.values()))})"
    return Findings(checked, records, damaged, [], files - len(records))


def _remove(store: Store, name: str) -> None:
    try:
        store.cache.remove(name)
    except OSError as fault:
        raise RetraceError(
            f"object {name} is damaged and cannot be removed ({fault.strerror}): make the cache writable, verify again"
        ) from None


def verify_remote(remote: Remote) -> Findings:
    """Check a remote."""
    keys = remote.list_records()
    records = list(remote.read_records(keys).values())
    objects = remote.sizes(remote.list_objects())
    damaged = []
    with byte_bar(f"verifying {remote.name}", sum(objects.values())) as tell:
        for name in objects:
            # None: somebody has deleted it meanwhile.
            if remote.digest(name, tell) not in (name.removesuffix(".dir"), None):
                damaged.append(name)
                remote.remove_objects([name])
    lost = [name for name in objects_of(records) if name not in objects]
    checked = f"{count(len(keys), 'record')} and {count(len(objects), 'object')} ({in_bytes(sum(objects.values()))})"
    return Findings(f"{checked} of {remote.name} ({remote.url})", records, damaged, lost, len(keys) - len(records))


def _report(found: Findings, remedy: str) -> None:
    """Say what was found; SystemExit(1) when anything was."""
    click.echo(f"checked {found.checked}")
    faults = []
    if found.damaged:
        faults.append(
            f"{count(len(found.damaged), 'object')} damaged and removed, of {_concerned(found, found.damaged)}"
        )
    if found.lost:
        faults.append(f"{count(len(found.lost), 'object')} not there, of {_concerned(found, found.lost)}")
    if found.refused:
        faults.append(f"{count(found.refused, 'record')} refused, as said above")
    for fault in faults:
        click.echo(f"error: {fault}: {remedy}", err=True)
    if faults:
        sys.exit(1)
    click.echo("all of it is sound")


def _concerned(found: Findings, objects: list[str]) -> str:
    """The artifacts that the objects belong to."""
    names = set(objects)
    paths = [record.path for record in found.records if names & objects_of([record]).keys()]
    return some(paths) if paths else "no artifact (no record names them)"
