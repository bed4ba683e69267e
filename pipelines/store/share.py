"""``store share``: objects first, then records, so that nobody ever finds a record whose objects are not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import ROOT, RUN_RECORD
from pipelines.runs.store import Record, Store
from pipelines.store.console import byte_bar, command, configfile, count, in_bytes, need_remote, need_store, some
from pipelines.store.console import remote_name as remote_option
from pipelines.store.published import published_trees
from pipelines.store.shipment import plan_shipment
from pipelines.store.wanted import plan_wanted, relative_to_checkout

EXAMPLES = """
share                                 # what the tables of params.yaml need
share --configfile params/smoke.yaml  # ... of another scale
share results/growth                  # these artifacts
share --all --remote archive          # all of the store, to another remote
"""


@command("share", EXAMPLES)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="every record of the store here")
@remote_option
@configfile
def share(paths: tuple[Path, ...], everything: bool, remote: str | None, configfiles: tuple[Path, ...]) -> None:
    """Send finished artifacts to the team's remote: those the current tables need, or those in PATHS.

    What is there already is not sent again; what is truncated or known to be damaged there is replaced. Interrupted,
    it loses nothing: the next call goes on.
    """
    if everything and paths:
        raise RetraceError("give PATHS or --all, not both")
    store, team = need_store(), need_remote(remote)
    absent: list[str] = []
    if everything:
        records = list(store.records())
    else:
        records, absent = _chosen(store, _keys(paths, configfiles))
    team.make_ready()
    shipment = plan_shipment(store, team, records, published_trees(ROOT))
    size = sum(shipment.objects.values())
    with byte_bar(f"sharing with {team.name}", size) as tell:
        team.push_objects(store, shipment.objects, shipment.replace, tell)
    team.push_records(shipment.records)

    where = f"{team.name} ({team.url})"
    if shipment.objects or shipment.records:
        objects = f"{count(len(shipment.objects), 'object')}, {in_bytes(size)}"
        mended = f"; {len(shipment.replace)} in place of bad ones" if shipment.replace else ""
        click.echo(f"sent {count(len(shipment.records), 'artifact')} ({objects}{mended}) to {where}")
    elif not shipment.refused:
        click.echo(f"nothing to do: {where} has all there is here, {count(len(records), 'artifact')}")
    if absent:
        click.echo(f"{count(len(absent), 'artifact')} not made yet: {some(absent)}", err=True)
    if shipment.refused:
        names = some([record.path for record in shipment.refused])
        click.echo(
            f"error: not sent, as objects of them are damaged or missing here: {names}."
            " `python -m pipelines store verify` removes what is damaged; then fetch or run these again",
            err=True,
        )
        sys.exit(1)


def _keys(paths: tuple[Path, ...], configfiles: tuple[Path, ...]) -> dict[str, str]:
    """Artifact folder, from the checkout -> key of its job."""
    if not paths:
        return {path: job.key for path, job in plan_wanted(configfiles).items()}
    from pipelines.runs.records import find_runs

    return {relative_to_checkout(run): _run_record(run)["key"] for run in find_runs(paths)}


def _chosen(store: Store, keys: dict[str, str]) -> tuple[list[Record], list[str]]:
    """The records of artifacts, and the folders of those that have none.

    What was computed while the store was off, full or read-only is stored now.
    """
    records, absent = [], []
    for path, key in keys.items():
        record = store.record(key)
        folder = ROOT / path
        if record is None and (folder / RUN_RECORD).is_file():
            run = _run_record(folder)
            if run["key"] == key and run.get("provenance") == "computed":
                record = store.put(folder, run)
        if record is None:
            absent.append(path)
        else:
            records.append(record)
    return records, absent


def _run_record(folder: Path) -> dict[str, str]:
    try:
        run: dict[str, str] = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
        run["key"]
    except (ValueError, KeyError, TypeError):
        raise RetraceError(f"{folder / RUN_RECORD} is not a run record: delete the folder and run it again") from None
    return run
