"""From params.yaml and papers/ to jobs: which artifacts exist, what each is made from, and its identity.

Tables pull runs: a job is planned only because a table of a requested paper needs it. Everything here is plain
data and path names; no torch is imported, and nothing is read but the parameters, the papers and the code.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import content_digest, job_key
from pipelines.runs.lifecycle import validate_spec
from pipelines.runs.verb import job_verb

Values = dict[str, Any]
MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)x")


@dataclass(frozen=True)
class PlannedJob:
    """One artifact to make.

    Attributes:
        path: its folder, which also names it.
        spec: the complete spec, every default spelled out.
        inputs: option name -> path, or several.
        key: its identity.
    """

    path: str
    stage: str
    verb: str
    spec: Values
    inputs: Mapping[str, str | tuple[str, ...]]
    key: str

    @property
    def options(self) -> str:
        """What to make, for the command line: ``--spec JSON --tokens PATH --base PATH``."""
        given = [("spec", json.dumps(self.spec, sort_keys=True)), *self.input_pairs()]
        return " ".join(f"--{name} {shlex.quote(value)}" for name, value in given)

    def input_pairs(self) -> Iterator[tuple[str, str]]:
        """(option name, path), one for each path."""
        for name, paths in self.inputs.items():
            for path in (paths,) if isinstance(paths, str) else paths:
                yield name, path


class Plan:
    """All planned jobs by path. Adding the same artifact twice is one job; two artifacts never share a path."""

    def __init__(self) -> None:
        self.jobs: dict[str, PlannedJob] = {}

    def __getitem__(self, path: str) -> PlannedJob:
        if path not in self.jobs:
            raise RetraceError(f"{path}: no table of the requested papers needs it; name it in a paper's grid")
        return self.jobs[path]

    def add(self, path: str, stage: str, verb: str, spec: Values, /, **inputs: str | list[str] | None) -> str:
        """Plan one artifact and return its path.

        Raises:
            RetraceError: the spec is not valid, or the path is taken by another artifact.
        """
        declared = job_verb(stage, verb)
        try:
            complete = validate_spec(stage, declared, spec).model_dump(mode="json")
        except RetraceError as error:
            raise RetraceError(f"params for {path}: {str(error).removeprefix('--spec: ')}") from None
        given = {name: tuple(p) if isinstance(p, list) else p for name, p in inputs.items() if p}
        keys = {name: [self._key(p) for p in (ps if isinstance(ps, tuple) else (ps,))] for name, ps in given.items()}
        flat = {name: keys[name] if name in declared.many else keys[name][0] for name in keys}
        job = PlannedJob(path, stage, verb, complete, given, job_key(stage, verb, declared, complete, flat))
        known = self.jobs.setdefault(path, job)
        if known.key != job.key:
            raise RetraceError(f"{path} is planned twice with different specs: give one of the rows its own `with:`")
        return path

    def _key(self, path: str) -> str:
        if path in self.jobs:
            return self.jobs[path].key
        return content_digest(Path(path))


def relative(base: Values, overrides: Values) -> Values:
    """Overrides with every ``0.5x`` made that multiple of the parameter's number; of a whole number, a whole one.

    Raises:
        RetraceError: the parameter is no number.
    """
    resolved = {}
    for key, value in overrides.items():
        resolved[key] = value
        if isinstance(value, str) and (multiple := MULTIPLE.fullmatch(value)):
            given = _get(base, key)
            if isinstance(given, bool) or not isinstance(given, int | float):
                raise RetraceError(f"{key}: {value} is a multiple of a number, and params.yaml gives {given!r}")
            times = float(multiple[1]) * given
            # Twelve digits: it names a folder, where 0.1 is not to be 0.1000000000000001.
            resolved[key] = math.floor(times + 0.5) if isinstance(given, int) else float(f"{times:.12g}")
    return resolved


def setting(base: Values, overrides: Values) -> str:
    """Name of a variant: the overrides that differ from the parameters, as ``key=value,key=value``, or ``default``."""
    overrides = relative(base, overrides)
    changed = {key: value for key, value in overrides.items() if _get(base, key) != value}
    parts = [f"{key}={_plain(changed[key])}" for key in sorted(changed)]
    return ",".join(parts) if parts else "default"


def overridden(base: Values, overrides: Values) -> Values:
    """A copy of a nested dict with dotted keys replaced; ``0.5x`` is half of what is there."""
    result: Values = json.loads(json.dumps(base))
    for key, value in relative(base, overrides).items():
        *parents, last = key.split(".")
        inner = result
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return result


def _get(values: Values, key: str) -> Any:
    inner: Any = values
    for part in key.split("."):
        if not isinstance(inner, dict) or part not in inner:
            return None
        inner = inner[part]
    return inner


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(_plain(each) for each in value)
    text = str(value)
    if not text or any(not (c.isalnum() or c in "._+-") for c in text):
        raise RetraceError(
            f"an override's value names a folder, so it cannot be {value!r}: use letters, digits, . _ + -"
        )
    return text
