"""What a call of a verb asks for: its spec with every default, its inputs, and the identity they make together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.identity import RUN_RECORD, input_key, job_key, method_name
from pipelines.runs.methods import method_card, resolve_method
from pipelines.runs.store import store_mode
from pipelines.runs.verb import Execution, Spec, Verb, job_verb, parse_spec

Inputs = dict[str, Any]
"""Input name -> Path, list of Paths for inputs that take many, or None for an optional one not given."""


def validate_spec(stage: str, declared: Verb, text: str | dict[str, Any]) -> Spec:
    """The spec with its method resolved and every default spelled out."""
    if isinstance(text, str):
        # Only to reach the method inside; parse_spec gives the errors a person reads.
        source = (
            Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") and Path(text[1:]).is_file() else text
        )
        try:
            values = json.loads(source)
        except json.JSONDecodeError:
            return parse_spec(declared.spec, text, "--spec")
    else:
        values = dict(text)
    if "method" in declared.spec.model_fields and isinstance(values, dict) and "method" in values:
        values["method"] = resolve_method(stage, values["method"])
    return parse_spec(declared.spec, values, "--spec")


@dataclass(frozen=True)
class Request:
    """One call of a verb, its spec and execution validated."""

    stage: str
    verb: str
    declared: Verb
    spec: Spec
    execution: Execution
    inputs: Inputs
    out: Path
    overwrite: bool

    @cached_property
    def values(self) -> dict[str, Any]:
        """The spec as JSON has it."""
        return self.spec.model_dump(mode="json")

    @cached_property
    def input_keys(self) -> dict[str, Any]:
        """Keys of what is read; an input not given and an empty list of inputs are the same thing."""
        return {name: _keys(path) for name, path in self.inputs.items() if path}

    @cached_property
    def key(self) -> str:
        """The job's identity, from the inputs that are there."""
        return job_key(self.stage, self.verb, self.declared, self.values, self.input_keys)

    def check(self) -> None:
        """Refuse a call that cannot be computed.

        Raises:
            RetraceError: an input is missing, or the spec cannot run under this execution.
        """
        _check_inputs(self.stage, self.declared, self.spec, self.inputs)
        if self.declared.check is not None:
            self.declared.check(self.spec, self.execution)

    def check_planned(self, key: str) -> None:
        """Refuse to compute another job than the one that was planned.

        Raises:
            RetraceError: names the input that differs, where one does.
        """
        self.check()
        if key == self.key:
            return
        inputs = list(_all_inputs(self.inputs))
        changed = [f"--{name} {path} is not what the code here makes" for name, path in inputs if _is_outdated(path)]
        given = ", ".join(f"--{name} {path}" for name, path in inputs)
        raise RetraceError(
            f"{self.out}: job {key[:12]} was planned, and this is job {self.key[:12]}: "
            + ("; ".join(changed) or f"since then the code, a package or an input has changed ({given or 'no inputs'})")
            + ": run snakemake again, or leave --key out"
        )


def _check_inputs(stage: str, declared: Verb, spec: Spec, inputs: Inputs) -> None:
    demanded: tuple[str, ...] = ()
    if "method" in type(spec).model_fields:
        name = method_name(spec.model_dump(mode="json"))
        demanded = method_card(stage, str(name)).requires
    for name in declared.inputs:
        path = inputs.get(name)
        if not path:
            if name in declared.optional and name not in demanded:
                continue
            raise RetraceError(f"--{name} is missing: {declared.inputs[name]}")
        for each in path if isinstance(path, list) else [path]:
            if not each.exists():
                # The graph made nothing for this job: it trusted the store to have it.
                remedy = "; RETRACE_STORE=full has it made first" if store_mode() == "lazy" else ""
                raise RetraceError(f"--{name}: no such file or folder: {each}{remedy}")


def _keys(path: Path | list[Path]) -> str | list[str]:
    return [input_key(each) for each in path] if isinstance(path, list) else input_key(path)


def _all_inputs(inputs: Inputs) -> Iterator[tuple[str, Path]]:
    for name, paths in inputs.items():
        for path in paths if isinstance(paths, list) else [paths]:
            if path is not None:
                yield name, path


def _is_outdated(artifact: Path) -> bool:
    """Whether today's code would give an artifact another key than the one in its run record."""
    try:
        run = json.loads((artifact / RUN_RECORD).read_text(encoding="utf-8"))
        declared = job_verb(run["stage"], run["verb"])
        return bool(job_key(run["stage"], run["verb"], declared, run["spec"], run["inputs"]) != run["key"])
    except (OSError, ValueError, KeyError, TypeError, RetraceError):
        return False
