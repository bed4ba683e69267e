"""``data tasks``: labelled tasks for continual finetuning, each beside a bag of words and the majority label."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipelines.data.labelled import write_task
from pipelines.data.proxies import PROXIES, proxy_tasks
from pipelines.data.task_folder import folder_tasks
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.data.spec import TasksSpec
    from pipelines.runs.job import Job


def tasks(spec: TasksSpec, inputs: dict[str, Path | None], job: Job) -> dict[str, float | int | str]:
    """Write the tasks artifact: a folder a task, and tasks.json with their cards in the default order.

    Raises:
        RetraceError: an unknown task, missing files, labels and data that disagree.
    """
    sizes = {"train": spec.max_train, "validation": spec.max_validation, "test": spec.max_test}
    folder = inputs.get("folder")
    if spec.source == "local":
        if folder is None:
            raise RetraceError("--folder is missing: source local reads a folder of labelled tasks")
        found = folder_tasks(folder, spec.tasks, spec.draw, sizes, spec.seed)
    elif folder is not None:
        raise RetraceError("--folder means nothing for source embedded: leave it out, or set source to local")
    else:
        found = proxy_tasks(spec.tasks or tuple(PROXIES), spec.packages, sizes, spec.seed)
    cards = [write_task(job.out, task) for task in found]
    body: dict[str, Any] = {"source": spec.source, "tasks": cards}
    if spec.versions:
        body["versions"] = spec.versions
    (job.out / "tasks.json").write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    final: dict[str, float | int | str] = {"num_tasks": len(cards)}
    for card in cards:
        final[f"{card['name']}_bag_of_words_acc"] = card["bag_of_words_acc"]
        final[f"{card['name']}_majority_acc"] = card["majority_acc"]
    return final
