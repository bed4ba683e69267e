"""What is known of jobs by key and by path, and why an artifact is what it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from pipelines.runs.differences import Comparison, Difference, Input, Parts
from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import (
    ROOT,
    RUN_RECORD,
    code_digest,
    code_of_modules,
    content_digest,
    job_key,
    method_name,
    versions,
)
from pipelines.runs.job import read_record
from pipelines.runs.records import find_runs
from pipelines.runs.store import Record, Store
from pipelines.runs.verb import job_verb

if TYPE_CHECKING:
    from workflow.plan import PlannedJob


@dataclass(frozen=True)
class Explanation:
    """What is known of one artifact.

    Attributes:
        run: its run record; None when it is not there.
        parts: what its key is made of; of the planned job when it is not there.
        wanted_key: key of the job that the parameters put at this path, if they do.
        differs: what tells the artifact in place from the wanted one, or from what the code here would make of the
            same inputs where no table wants it; if nothing is in place, what tells the nearest record from it.
        stored: the run record in the store under the wanted key (if none is wanted, under the artifact's own).
        nearest: of an artifact neither in place nor stored, the run record that comes closest.
    """

    path: str
    run: dict[str, Any] | None
    parts: Parts
    wanted_key: str | None
    differs: tuple[Difference, ...]
    stored: dict[str, Any] | None
    nearest: dict[str, Any] | None = None


class _Run(BaseModel):
    """What is read of a run record. One from the store may have been written by anyone."""

    key: str
    stage: str
    verb: str
    spec: dict[str, Any]
    inputs: dict[str, str | list[str]]
    code: dict[str, str] | None = None
    code_digest: str
    versions: dict[str, str]
    started: str
    seconds: float


class Known:
    """What is known of jobs by key and by path: from the plan, the store, and the artifacts in place.

    Args:
        plan: every wanted job by path.
    """

    def __init__(self, plan: Mapping[str, PlannedJob], store: Store | None) -> None:
        self.plan = plan
        self.store = store
        self._planned = {job.key: job for job in plan.values()}
        self._comparison = Comparison(self.find)

    def explain(self, path: str) -> Explanation:
        """What is known of the artifact at a path relative to the checkout.

        Raises:
            RetraceError: nothing is there, and nothing is planned there; or what is there is no artifact.
        """
        job = self.plan.get(path)
        wanted = self.of_plan(job) if job else None
        if not (ROOT / path).exists():
            if wanted is None:
                raise RetraceError(
                    f"{path}: nothing is there, and no table of the current parameters needs it; an overlay needs its"
                    " --configfile, and `snakemake -n` lists what is planned"
                )
            return self._absent(wanted)
        run = _read(path)
        parts = self.of_run(run, path)
        expected = wanted or self._of_code_here(parts)
        return Explanation(
            path,
            run,
            parts,
            wanted.key if wanted else None,
            self._comparison.of(parts, expected) if expected else (),
            self._stored(wanted.key if wanted else parts.key),
        )

    def _absent(self, wanted: Parts) -> Explanation:
        assert wanted.path is not None
        stored = self._stored(wanted.key)
        record = self._nearest(wanted) if stored is None else None
        if record is None:
            return Explanation(wanted.path, None, wanted, wanted.key, (), stored)
        differs = self._comparison.of(self.of_run(record.run, record.path), wanted)
        nearest = {**record.run, "path": record.path}
        return Explanation(wanted.path, None, wanted, wanted.key, differs, stored, nearest)

    def _nearest(self, wanted: Parts) -> Record | None:
        """The record of the same verb that differs least; one of the same place or method first."""

        def distance(record: Record) -> tuple[bool, int, bool, str]:
            same_place = record.path == wanted.path
            same_method = method_name(record.run["spec"]) == method_name(wanted.spec)
            number = len(self._comparison.of(self.of_run(record.run, record.path), wanted))
            return (not (same_place or same_method), number, not same_place, record.key)

        records = self.store.records() if self.store else ()
        of_verb = (each for each in records if (each.stage, each.verb) == (wanted.stage, wanted.verb))
        return min(filter(_is_whole, of_verb), key=distance, default=None)

    def find(self, key: str) -> Parts | None:
        """The parts of the job with this key."""
        if key in self._planned:
            return self.of_plan(self._planned[key])
        record = self._record(key)
        if record is not None:
            return self.of_run(record.run, record.path)
        path = self._in_place.get(key)
        return self.of_run(_read(path), path) if path else None

    def of_plan(self, job: PlannedJob) -> Parts:
        """The parts of a planned job, with the code and the packages that are here."""
        inputs: dict[str, list[Input]] = {}
        for name, path in job.input_pairs():
            key = self.plan[path].key if path in self.plan else _content(path)
            inputs.setdefault(name, []).append(Input(key, path))
        return _here(Parts(job.key, job.path, job.stage, job.verb, job.spec, _frozen(inputs), None, "", {}))

    def of_run(self, run: dict[str, Any], path: str | None) -> Parts:
        """The parts that a run recorded; the places of its inputs are where such artifacts are or were."""
        read = _Run.model_validate(run)
        inputs = {
            name: [Input(key, self._place(key)) for key in ([keys] if isinstance(keys, str) else keys)]
            for name, keys in read.inputs.items()
        }
        return Parts(
            key=read.key,
            path=path,
            stage=read.stage,
            verb=read.verb,
            spec=read.spec,
            inputs=_frozen(inputs),
            code=read.code,
            code_digest=read.code_digest,
            versions=read.versions,
        )

    def _of_code_here(self, parts: Parts) -> Parts | None:
        """The same job with the code and the packages that are here; None if the code here has no such verb."""
        try:
            expected = _here(parts)
            inputs = {name: [each.key for each in given] for name, given in parts.inputs.items()}
            declared = job_verb(parts.stage, parts.verb)
            flat = {name: keys if name in declared.many else keys[0] for name, keys in inputs.items()}
            return replace(expected, key=job_key(parts.stage, parts.verb, declared, parts.spec, flat))
        except RetraceError:
            return None

    def _stored(self, key: str) -> dict[str, Any] | None:
        record = self._record(key)
        return record.run if record else None

    def _record(self, key: str) -> Record | None:
        record = self.store.record(key) if self.store else None
        return record if record and _is_whole(record) else None

    def _place(self, key: str) -> str | None:
        if key in self._planned:
            return self._planned[key].path
        record = self._record(key)
        return record.path if record else self._in_place.get(key) or self._files.get(key)

    @cached_property
    def _in_place(self) -> dict[str, str]:
        """Key -> path of every artifact below results/."""
        results = ROOT / "results"
        keys = {}
        for run in find_runs([results]) if results.is_dir() else ():
            path = run.relative_to(ROOT).as_posix()
            with suppress(RetraceError):
                keys[_read(path)["key"]] = path
        return keys

    @cached_property
    def _files(self) -> dict[str, str]:
        """Digest -> path of everything planned jobs read that no job makes."""
        paths = {path for job in self.plan.values() for _, path in job.input_pairs() if path not in self.plan}
        return {_content(path): path for path in paths}


@cache
def _content(path: str) -> str:
    return content_digest(ROOT / path)


def _here(parts: Parts) -> Parts:
    declared, method = job_verb(parts.stage, parts.verb), method_name(parts.spec)
    return replace(
        parts,
        code=code_of_modules(parts.stage, declared, method),
        code_digest=code_digest(parts.stage, declared, method),
        versions=versions(declared.packages),
    )


def _read(path: str) -> dict[str, Any]:
    try:
        run = read_record(ROOT / path)
        _Run.model_validate(run)
    except ValueError:
        raise RetraceError(f"{path}/{RUN_RECORD} is damaged: delete {path}, and the next run makes it again") from None
    return run


def _is_whole(record: Record) -> bool:
    try:
        _Run.model_validate(record.run)
    except ValidationError:
        return False
    return True


def _frozen(inputs: Mapping[str, list[Input]]) -> dict[str, tuple[Input, ...]]:
    return {name: tuple(given) for name, given in inputs.items()}
