"""``continual finetune``: one model, a sequence of tasks, the whole accuracy matrix.

The artifact is ``model/``, the final model as a plain Hugging Face folder (a LoRA adapter is merged into the weights),
and ``accuracy_matrix.json``. Wrong tasks are refused before torch is imported.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipelines.continual.metrics import FORMULAS, sequence_metrics
from pipelines.continual.prompts import encode_tasks, union_of_labels
from pipelines.continual.tasks import load_tasks
from pipelines.runs.devices import choose_device, prepare_cpu
from pipelines.runs.methods import load_method

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.continual.protocol import Method
    from pipelines.continual.spec import FinetuneSpec
    from pipelines.continual.tasks import Task
    from pipelines.runs.job import Job


def finetune(spec: FinetuneSpec, inputs: dict[str, Path], job: Job) -> dict[str, float | int | str]:
    """Finetune ``inputs["model"]`` on the tasks of ``inputs["tasks"]``.

    Returns:
        The metrics of the sequence (accuracies as fractions of 1), the method's own, and the tokens trained on.
    """
    method: Method = load_method("continual", spec.method)
    tasks = load_tasks(inputs["tasks"], spec.task_sequence)

    import torch

    from pipelines.continual.models import (
        add_lora,
        check_fit,
        load_model,
        make_family,
        open_tokenizer,
        read_architecture,
        save_model,
    )
    from pipelines.continual.sequence import TaskSequence

    prepare_cpu(job.execution.threads)
    device = choose_device(job.execution.device)
    architecture = read_architecture(inputs["model"])
    tokenizer = open_tokenizer(inputs["model"])
    encoded = encode_tasks(tasks, tokenizer, architecture.family, spec.max_length)
    torch.manual_seed(spec.seed)
    model = load_model(inputs["model"], architecture, union_of_labels(tasks), device)
    check_fit(model, encoded, spec.max_length)
    adapted = add_lora(model, spec) if spec.adapter == "lora" else None

    sequence = TaskSequence(spec, encoded, model, make_family(architecture, model, tokenizer), job)
    strategy = method.start(model, spec.seed)
    sequence.run(strategy)
    strategy.detach()
    save_model(model if adapted is None else adapted.merge_and_unload(), inputs["model"], job.out / "model")

    metrics = sequence_metrics(sequence.matrix)
    write_matrix(job.out / "accuracy_matrix.json", tasks, sequence.matrix, metrics)
    trainable = sum(parameter.numel() for parameter in sequence.trainable.values())
    job.record(tokens=sequence.tokens, device=str(device), num_trainable_parameters=trainable)
    return {**metrics, **strategy.metrics(), "tokens": sequence.tokens}


def write_matrix(path: Path, tasks: list[Task], matrix: list[list[float]], metrics: dict[str, float]) -> None:
    """Write the accuracy matrix with what is needed to read it alone."""
    content = {
        "tasks": [task.name for task in tasks],
        "accuracy": matrix,
        "rows": "row 0: before training; row t: after training on task t; columns: tasks in the same order",
        "num_train": [len(task.train) for task in tasks],
        "num_test": [len(task.test) for task in tasks],
        "num_labels": [len(task.labels) for task in tasks],
        "average": "macro over tasks",
        "metrics": metrics,
        "formulas": {name: FORMULAS[name] for name in metrics},
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
