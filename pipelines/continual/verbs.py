"""Verbs of the continual stage."""

from __future__ import annotations

from pipelines.continual.spec import FinetuneSpec
from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import load_method
from pipelines.runs.verb import Command, Execution, Spec, Verb


def check_finetune(spec: Spec, execution: Execution) -> None:
    """Refuse method values out of range and more than one process, before anything is loaded."""
    assert isinstance(spec, FinetuneSpec)
    load_method("continual", spec.method)
    if len(set(spec.task_sequence)) != len(spec.task_sequence):
        raise RetraceError(f"task_sequence names a task twice: {', '.join(spec.task_sequence)}; name each once")
    if execution.processes != 1:
        raise RetraceError(f"--exec processes is {execution.processes}: finetuning runs in one process; set it to 1")


VERBS: dict[str, Verb | Command] = {
    "finetune": Verb(
        help="Finetune a Hugging Face model on a sequence of tasks; record accuracy on all tasks after each.",
        implementation="pipelines.continual.finetune:finetune",
        spec=FinetuneSpec,
        inputs={"model": "Hugging Face model folder", "tasks": "folder of labelled tasks with tasks.json"},
        packages=("torch", "transformers", "peft"),
        check=check_finetune,
    ),
    "metrics": Command(
        help="Compute ACC, BWT, FWT and forgetting from an accuracy matrix.",
        implementation="pipelines.continual.metrics_command:metrics",
    ),
}
