"""``evaluate tasks``: harness tasks from held-out prose, or from a folder of real sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.evaluate.formats import FORMATS, Row
from pipelines.evaluate.local_sets import LOCAL_SETS, read_local_set
from pipelines.evaluate.prose import held_out_documents
from pipelines.evaluate.proxies import PROXIES
from pipelines.evaluate.spec import SOURCES, TasksSpec
from pipelines.evaluate.task_folder import write_index, write_task
from pipelines.runs.errors import RetraceError

if TYPE_CHECKING:
    from pipelines.runs.job import Job


def tasks(spec: TasksSpec, inputs: dict[str, Path], job: Job) -> dict[str, Any]:
    """Write the folder of tasks; metrics are the number of items of each.

    Raises:
        RetraceError: the source's input is missing, or a task has fewer than ``min_items`` items.
    """
    cards = {}
    for name, format_name, metrics, rows in _items(spec, inputs):
        if len(rows) < spec.min_items:
            remedy = "a larger validation split" if spec.source == "embedded" else "a whole file"
            raise RetraceError(
                f"{name}: only {len(rows)} items could be built, min_items is {spec.min_items}; give {remedy}, "
                "lower min_items, or leave the task out of tasks"
            )
        if spec.max_items is not None and len(rows) < spec.max_items:
            job.say(f"{name}: {len(rows)} items, fewer than max_items {spec.max_items}")
        cards[name] = write_task(job.out, name, format_name, metrics, rows)
    write_index(job.out, cards, source=spec.source, seed=spec.seed)
    sizes = {f"{name}_items": card["num_items"] for name, card in cards.items()}
    return {"num_tasks": len(cards), "num_items": sum(sizes.values()), **sizes}


def _items(spec: TasksSpec, inputs: dict[str, Path]) -> Iterator[tuple[str, str, tuple[str, ...], list[Row]]]:
    needed, other = ("corpus", "folder") if spec.source == "embedded" else ("folder", "corpus")
    if not inputs.get(needed):
        raise RetraceError(f"--{needed} is missing: source {spec.source} reads it")
    if inputs.get(other):
        raise RetraceError(f"--{other} is not read by source {spec.source}: leave it out, or change source")
    order = SOURCES[spec.source]
    documents = held_out_documents(inputs["corpus"]) if spec.source == "embedded" else []
    for name in spec.tasks or order:
        # Each task draws from a stream of its own: naming fewer tasks changes none of the others.
        rng = np.random.default_rng([spec.seed, order.index(name)])
        if spec.source == "embedded":
            format_name, build = PROXIES[name]
            rows = build(documents, rng, spec.max_items)
            yield name, format_name, FORMATS[format_name].metrics, rows
        else:
            entry = LOCAL_SETS[name]
            rows = read_local_set(inputs["folder"], name)
            if spec.max_items is not None and len(rows) > spec.max_items:
                chosen = sorted(rng.choice(len(rows), size=spec.max_items, replace=False))
                rows = [rows[int(i)] for i in chosen]
            yield name, entry.format, entry.metrics, rows
