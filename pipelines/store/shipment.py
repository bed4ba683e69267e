"""What has to be sent so that a remote holds artifacts whole: what it lacks, and what is truncated or damaged there."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from pipelines.runs.remote import Remote, objects_of
from pipelines.runs.store import Record, Store, tree_bytes
from pipelines.store.console import byte_bar


@dataclass
class Shipment:
    """What one call sends.

    Attributes:
        objects: name -> bytes of what to send, verified here.
        replace: those of them that take the place of a truncated or damaged object.
        records: to be written when the objects are there.
        refused: artifacts that cannot be sent, as objects of them are damaged or missing here.
    """

    objects: dict[str, int] = field(default_factory=dict)
    replace: set[str] = field(default_factory=set)
    records: list[Record] = field(default_factory=list)
    refused: list[Record] = field(default_factory=list)


def plan_shipment(store: Store, remote: Remote, records: Iterable[Record], published: Collection[str] = ()) -> Shipment:
    """Compare records with the remote and verify here what it needs.

    Where two people computed the same job, the record that was shared first stays: its objects are mended if we have
    them, and only if they cannot be does ours take its place.

    Args:
        published: folder lists that published.dvc names; their objects are sent whichever record the remote has.
    """
    mine = list(records)
    theirs = remote.read_records(record.key for record in mine)
    there = remote.sizes(objects_of([*mine, *theirs.values()]))
    damage = remote.damage(store)

    def lacking(record: Record) -> dict[str, int]:
        return {name: n for name, n in objects_of([record]).items() if there.get(name) != n or name in damage}

    broken = {key: lacking(record) for key, record in theirs.items()}
    named = [record for record in mine if record.tree in published]
    needing = [record for record in mine if record.key not in theirs or broken[record.key] or record in named]
    needed = {name: n for record in needing for name, n in {**lacking(record), **broken.get(record.key, {})}.items()}
    good = _verified(store, needed, [*needing, *theirs.values()])

    shipment = Shipment()
    for record in needing:
        own, mending = lacking(record), broken.get(record.key)
        if mending and good >= mending.keys():
            shipment.objects |= mending
        elif mending is None or mending:
            if good >= own.keys():
                shipment.records.append(record)
            else:
                shipment.refused.append(record)
                continue
        if record in named or record in shipment.records:
            shipment.objects |= {name: n for name, n in own.items() if name in good}
    shipment.replace = shipment.objects.keys() & there.keys()
    return shipment


def _verified(store: Store, objects: dict[str, int], records: Iterable[Record]) -> set[str]:
    """Those of the objects that are here and sound."""
    for record in records:
        # A folder's list follows from the record, so it need not be here.
        if record.tree in objects:
            with suppress(OSError):
                store.cache.add_tree(tree_bytes(record.files))
    good = set()
    here = {name: size for name, size in objects.items() if store.cache.has(name, size)}
    with byte_bar("checking", sum(here.values())) as tell:
        for name, size in here.items():
            if store.cache.is_sound(name):
                good.add(name)
            tell(size)
    return good
