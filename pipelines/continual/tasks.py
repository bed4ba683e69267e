"""Labelled tasks on disk: read and checked whole before any model is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Task:
    """One labelled task.

    Attributes:
        labels: the options, in the order of task.json.
        question: what is asked of each text.
        train, test: pairs of text and index of its label. The validation split is left to those who tune.
    """

    name: str
    labels: tuple[str, ...]
    question: str
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]


def load_tasks(folder: Path, sequence: tuple[str, ...] = ()) -> list[Task]:
    """Tasks in the order of ``sequence``, or of tasks.json when it is empty.

    Raises:
        RetraceError: an unknown task, a missing or empty file, a line without its fields, a label task.json lacks.
    """
    known = _names(folder)
    unknown = [name for name in sequence if name not in known]
    if unknown:
        raise RetraceError(f"task_sequence: unknown task {', '.join(unknown)}; {folder} has {', '.join(known)}")
    return [_load_task(folder / name, name) for name in sequence or known]


def _names(folder: Path) -> list[str]:
    listing = _read_json(folder / "tasks.json")
    tasks = listing.get("tasks") if isinstance(listing, dict) else None
    names = [each.get("name") if isinstance(each, dict) else each for each in tasks or []]
    if not names or not all(isinstance(name, str) for name in names):
        raise RetraceError(f'{folder / "tasks.json"}: needs "tasks", a list of task names; run `data tasks` again')
    return [str(name) for name in names]


def _load_task(folder: Path, name: str) -> Task:
    card = _read_json(folder / "task.json")
    labels, question = (card.get("labels"), card.get("question")) if isinstance(card, dict) else (None, None)
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(each, str) and each for each in labels):
        raise RetraceError(f'{folder / "task.json"}: "labels" must list at least two texts')
    if len(set(labels)) != len(labels):
        raise RetraceError(f'{folder / "task.json"}: "labels" names one twice; each label once')
    if not isinstance(question, str):
        raise RetraceError(f'{folder / "task.json"}: "question" must be a text (empty for none)')
    indices = {label: index for index, label in enumerate(labels)}
    splits = {split: _read_examples(folder / f"{split}.jsonl", indices) for split in SPLITS}
    return Task(name=name, labels=tuple(labels), question=question, **splits)


def _read_examples(path: Path, indices: dict[str, int]) -> tuple[tuple[str, int], ...]:
    examples = []
    text = _read_text(path)
    # Not splitlines(): JSON may hold the other line separators of Unicode unescaped.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        try:
            fields = json.loads(line)
            text, label = fields["text"], fields["label"]
        except (ValueError, KeyError, TypeError):
            raise RetraceError(f'{path}:{number}: needs a JSON object with "text" and "label"') from None
        if not isinstance(text, str):
            raise RetraceError(f'{path}:{number}: "text" must be a text')
        if not isinstance(label, str) or label not in indices:
            raise RetraceError(
                f"{path}:{number}: label {label!r} is not in task.json, which lists {', '.join(indices)}; "
                "correct the line or the list"
            )
        examples.append((text, indices[label]))
    if not examples:
        raise RetraceError(f"{path}: no examples; a task needs at least one to train and one to test")
    return tuple(examples)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except ValueError as broken:
        raise RetraceError(f"{path}: not JSON ({broken})") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RetraceError(f"{path}: no such file; make the tasks with `data tasks`") from None
    except UnicodeDecodeError:
        raise RetraceError(f"{path}: not UTF-8; convert it") from None
