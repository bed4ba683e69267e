"""Typed specs of the evaluate stage. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.runs.errors import RetraceError
from pipelines.runs.verb import Execution, Spec

EMBEDDED_TASKS = ("cloze_proxy", "next_sentence_proxy", "word_order_proxy")
LOCAL_TASKS = (
    "lambada_openai",
    "winogrande",
    "arc_easy",
    "arc_challenge",
    "piqa",
    "openbookqa",
    "logiqa",
    "boolq",
    "copa",
    "hellaswag",
)
SOURCES = {"embedded": EMBEDDED_TASKS, "local": LOCAL_TASKS}


class TasksSpec(Spec):
    """Which harness tasks to write, from where, and how long."""

    source: Literal["embedded", "local"] = Field(
        "embedded", description="embedded: proxies from the held-out modules of --corpus; local: real sets of --folder"
    )
    tasks: tuple[str, ...] | None = Field(None, description="default: every task of the source")
    max_items: int | None = Field(200, ge=1, description="items a task, drawn by the seed; null for all")
    min_items: int = Field(20, ge=1, description="a task with fewer items is refused")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = SOURCES[self.source]
        unknown = sorted(set(self.tasks or ()) - set(known))
        if unknown:
            raise ValueError(f"source {self.source} has no task {', '.join(unknown)}; known: {', '.join(known)}")
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            raise ValueError("tasks must name at least one task, each once")
        if self.max_items is not None and self.max_items < self.min_items:
            raise ValueError(f"max_items {self.max_items} is below min_items {self.min_items}")
        return self


class RunSpec(Spec):
    """How to score a model; the words are the harness's own."""

    tasks: tuple[str, ...] | None = Field(None, description="default: every task of the folder")
    num_fewshot: int = Field(0, ge=0, description="solved examples before each item")
    limit: int | None = Field(None, ge=1, description="only the first items of each task")
    batch_size: int = Field(32, ge=1, description="sequences a forward pass")
    max_length: int | None = Field(
        None, ge=2, description="tokens; longer inputs lose their left end; default: the model's own length"
    )
    bootstrap_iters: int = Field(100, ge=0, description="resamples behind a standard error; 0: no standard errors")
    seed: int = Field(0, ge=0, description="draws the few-shot examples")

    @model_validator(mode="after")
    def _enough_resamples(self) -> Self:
        if self.bootstrap_iters == 1:
            raise ValueError("bootstrap_iters must be 0 or at least 2: one resample has no deviation")
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            raise ValueError("tasks must name at least one task, each once")
        return self


def one_process(spec: RunSpec, execution: Execution) -> None:
    """Refuse a layout the harness would not use.

    Raises:
        RetraceError: more than one process.
    """
    if execution.processes != 1:
        raise RetraceError(
            f"--exec processes: evaluate run scores in one process, got {execution.processes}; "
            "a checkpoint of any layout loads there"
        )
