"""What the store spares the graph: inputs nobody needs, artifacts fetched before jobs start, and the sum at the end.

Each job asks the store for itself (``pipelines.runs.lifecycle``). Here is what only the whole graph can know.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import RUN_RECORD
from pipelines.runs.store import Store, open_store, store_mode
from workflow.plan import Plan, PlannedJob


class Sharing:
    """The store and the remote behind it, for one call of the graph.

    Args:
        plan: every job there can be.
        ask: whether this process may ask the remote. The processes that Snakemake starts for its jobs may not: what
            the first one has fetched is here, and all have to see the same graph.
    """

    def __init__(self, plan: Plan, *, ask: bool) -> None:
        self.plan = plan
        self.store = open_store()
        # After a fault the remote is left alone: one warning a call.
        self._ask = ask
        self.spared: frozenset[str] = frozenset()
        if self.store is not None and store_mode() == "lazy":
            self.spared = frozenset(self._served(self.store))

    def inputs(self, job: PlannedJob, *, current: bool) -> dict[str, list[str]]:
        """What a job has to wait for.

        In lazy mode that is nothing where the store can give the artifact. Inputs that are gone are not made again for
        the sake of a current artifact, which the store could give again if someone insists.
        """
        if job.path in self.spared:
            return {}
        inputs: dict[str, list[str]] = {}
        for name, path in job.input_pairs():
            inputs.setdefault(name, []).append(path)
        gone = {path for paths in inputs.values() for path in paths if not Path(path).exists()} if current else set()
        if gone and self._gives(job):
            return {name: [path for path in paths if path not in gone] for name, paths in inputs.items()}
        return inputs

    def _gives(self, job: PlannedJob) -> bool:
        record = self.store.record(job.key) if self.store else None
        return record is not None and self.store is not None and not self.store.missing(record)

    def fetch(self, paths: list[str]) -> None:
        """Bring what the remote has of these artifacts, in one go. One that cannot be had is computed.

        Raises:
            RetraceError: it was spared its inputs, so that it cannot.
        """
        if self.store is None:
            return
        self._bring(self.store, [self.plan[path].key for path in paths], objects=True)
        for path in self.spared.intersection(paths):
            if _lacking(self.store, [self.plan[path].key]):
                raise RetraceError(
                    f"{path} is in the store, and its files could not be fetched: try again when the remote answers, or"
                    " set RETRACE_STORE=full to compute what it lacks"
                )

    def account(self, paths: Iterable[str]) -> str:
        """What became of these artifacts: how many were computed, how many restored, and what that saved."""
        seconds: dict[str, list[float]] = {"computed": [], "restored": []}
        for path in paths:
            run = json.loads((Path(path) / RUN_RECORD).read_text(encoding="utf-8"))
            seconds[run["provenance"]].append(run["seconds"])
        computed, restored = seconds.values()
        parts = [f"{len(computed)} computed in {sum(computed):.0f} s"] if computed else []
        if restored:
            parts.append(f"{len(restored)} restored from the store, which saved {sum(restored):.0f} s of computing")
        return f"Artifacts: {', '.join(parts)}."

    def _served(self, store: Store) -> Iterator[str]:
        """The artifacts that the store can give: all objects are here, or there is a remote to fetch them from."""
        records = {job.key: store.record(job.key) for job in self.plan.jobs.values()}
        absent = [key for key, record in records.items() if record is None]
        self._bring(store, absent, objects=False)
        records |= {key: store.record(key) for key in absent}
        remote: bool | None = None
        for path, job in self.plan.jobs.items():
            record = records[job.key]
            if record is not None and store.missing(record):
                remote = _has_remote() if remote is None else remote
                record = record if remote else None
            if record is not None:
                yield path

    def _bring(self, store: Store, keys: list[str], *, objects: bool) -> None:
        """Fetch the records of jobs, and what their artifacts consist of; a fault is a warning."""
        if not (self._ask and _lacking(store, keys)):
            return
        # DVC takes a while to load, and most calls do not come here.
        from pipelines.runs.remote import open_remote
        from pipelines.store.console import byte_bar, count, in_bytes

        try:
            remote = open_remote()
            if remote is None:
                return
            remote.fetch_records(store, _lacking(store, keys))
            records = [record for key in _lacking(store, keys) if (record := store.record(key)) is not None]
            if objects and records:
                size = sum(each.size for record in records for each in store.missing(record))
                _say(f"Fetching {count(len(records), 'artifact')} ({in_bytes(size)}) from remote {remote.name}.")
                with byte_bar("fetching", size) as tell:
                    remote.fetch_objects(store, records, tell)
        except RetraceError as fault:
            self._ask = False
            _say(f"warning: {fault}. What cannot be fetched is computed.")


def _lacking(store: Store, keys: list[str]) -> list[str]:
    """The keys that have no record here, or one with objects that are not here."""
    records = {key: store.record(key) for key in keys}
    return [key for key, record in records.items() if record is None or store.missing(record)]


def _has_remote() -> bool:
    from pipelines.runs.remote import open_remote

    return open_remote() is not None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
