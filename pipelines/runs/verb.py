"""What a stage verb is: a typed spec, named inputs, and the function that does the work.

A stage lists its verbs in ``pipelines/<stage>/verbs.py`` as ``VERBS: dict[str, Verb]``. That file and the
stage's ``spec.py`` import nothing heavy, so that planning a graph and printing ``--help`` never load torch.
"""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.runs.errors import RetraceError

STAGES = (
    "data",
    "tokenizer",
    "megatron",
    "pretrain",
    "growth",
    "moe",
    "continual",
    "translation",
    "evaluate",
    "forecast",
    "tables",
    "runs",
    "store",
)


class Spec(BaseModel):
    """Base of every spec: frozen, typed, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Execution(Spec):
    """How a job runs. Nothing here may change a result beyond float rounding."""

    processes: int = Field(1, ge=1, description="ranks to start (torchrun, or srun inside Slurm)")
    device: str = Field("auto", description="auto, cpu or cuda")
    threads: int = Field(1, ge=1, description="threads a rank")
    data_parallel_size: int | None = Field(None, description="default: what the other sizes leave over")
    expert_model_parallel_size: int = Field(1, ge=1)
    pipeline_model_parallel_size: int = Field(1, ge=1)
    tensor_model_parallel_size: int = Field(1, ge=1)
    micro_batch_size: int | None = Field(
        None, ge=1, description="sequences a forward pass, where the loss does not depend on it"
    )
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="between checkpoints of unfinished training, 0: every step (RETRACE_CHECKPOINT_SECONDS)"
    )


@dataclass(frozen=True)
class Verb:
    """One command of a stage.

    Attributes:
        help: one sentence for ``--help``.
        implementation: ``"package.module:function"``, imported only when the verb runs. The function takes
            ``(spec, inputs, job)`` and returns the final metrics, a flat dict of numbers and short strings.
        spec: the pydantic model of the spec.
        inputs: name -> help of the paths the verb reads; each becomes ``--name PATH``.
        optional: the names in ``inputs`` that may be left out (a method may demand them).
        packages: distributions whose pinned version belongs to the job's identity.
        many: the names in ``inputs`` that take several paths (the option is repeated).
        check: refuses a spec that cannot run under an execution (say, ranks that do not divide the experts);
            called before any rank starts and when the graph is planned, so it must be light.
    """

    help: str
    implementation: str
    spec: type[Spec]
    inputs: dict[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    packages: tuple[str, ...] = ()
    many: frozenset[str] = frozenset()
    check: Callable[[Any, Execution], None] | None = None

    def load(self) -> Callable[..., dict[str, Any]]:
        """Import and return the implementation."""
        module, _, function = self.implementation.partition(":")
        # Thousands of modules load and none of it is garbage: looking for some costs half a second a job.
        gc.disable()
        try:
            implementation: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), function)
        finally:
            gc.enable()
        return implementation


@dataclass(frozen=True)
class Command:
    """A stage command that is not a job: it has no spec, no key and no run record.

    ``implementation`` names a click command object, imported when it is called or described.
    """

    help: str
    implementation: str


def stage_verbs(stage: str) -> dict[str, Verb | Command]:
    """The verbs of a stage; importing them loads nothing heavy."""
    try:
        module = importlib.import_module(f"pipelines.{stage}.verbs")
    except ModuleNotFoundError as missing:
        if missing.name not in (f"pipelines.{stage}", f"pipelines.{stage}.verbs"):
            raise
        raise RetraceError(f"unknown stage {stage!r}: choose one of {', '.join(STAGES)}") from None
    verbs: dict[str, Verb | Command] = module.VERBS
    return verbs


def job_verb(stage: str, verb: str) -> Verb:
    """The verb that makes an artifact, or a clear refusal."""
    verbs = stage_verbs(stage)
    found = verbs.get(verb)
    if not isinstance(found, Verb):
        jobs = [name for name, each in verbs.items() if isinstance(each, Verb)]
        raise RetraceError(f"{stage} has no verb {verb!r} that makes an artifact: choose one of {', '.join(jobs)}")
    return found


def parse_spec(model: type[Spec], text: str | dict[str, Any], what: str) -> Spec:
    """Validate a spec given as JSON text, as ``@file.json`` or as a dict.

    Raises:
        RetraceError: names the offending key and says what it takes.
    """
    if isinstance(text, str):
        if text.startswith("@"):
            path = Path(text[1:])
            if not path.is_file():
                raise RetraceError(f"{what}: no such file {path}; give JSON or @FILE")
            text = path.read_text(encoding="utf-8")
        try:
            values = json.loads(text)
        except json.JSONDecodeError as broken:
            raise RetraceError(f"{what}: not JSON ({broken}); quote it with single quotes") from None
    else:
        values = text
    try:
        return model.model_validate(values)
    except ValidationError as invalid:
        raise RetraceError(describe_invalid(invalid, what, model)) from None


def describe_invalid(invalid: ValidationError, what: str, model: type[BaseModel]) -> str:
    """Every fault of a validation on one line: the dotted key, what is wrong, and the remedy."""
    faults = []
    for fault in invalid.errors():
        key = ".".join(str(part) for part in fault["loc"]) or "(whole)"
        if fault["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            faults.append(f"{what}: unknown key {key}; known at the top level: {known}")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            given = "" if fault["type"] == "missing" else f" (got {fault.get('input')!r})"
            faults.append(f"{what}: {key}: {message}{given}")
    return "; ".join(faults)
