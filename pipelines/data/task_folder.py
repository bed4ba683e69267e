"""Real labelled tasks from a folder, in the two layouts their authors publish.

Few-shot (Lifelong-Fewshot-Language-Learning): ``NAME/DRAW/{train,valid,test}.txt`` with ``text<TAB>label`` lines.
JSON (O-LoRA): ``NAME.{train,test}.json``, lists of ``{"label", "sentence"}``, and ``NAME.labels.json``; validation is
taken from the training examples. Both may lie in the folder itself or in its subfolders ``fewshot`` and ``cl``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.data.docstrings import stable_order
from pipelines.data.labelled import Example, LabelledTask
from pipelines.runs.errors import RetraceError

_QUESTIONS = {
    "ag_news": "What is the topic of this news?",
    "agnews": "What is the topic of this news?",
    "amazon_review_full": "How does the writer like the product?",
    "dbpedia": "What kind of thing is described?",
    "yahoo_answers": "What is the topic of this question?",
    "SST-2": "What is the sentiment of this review?",
    "RTE": "How is sentence 2 related to sentence 1?",
    "CB": "How is sentence 2 related to sentence 1?",
    "COPA": "Which option is right, A or B?",
    "WiC": "Does the word have the same meaning in both sentences?",
    "BoolQA": "Is the answer to the question True or False?",
}
_ANY_QUESTION = "Which label fits this text?"

# Validation never takes more than this share of the training examples of a task that has no validation of its own.
MAX_VALIDATION_SHARE = 0.2


def folder_tasks(
    folder: Path, names: tuple[str, ...] | None, draw: int, sizes: dict[str, int], seed: int
) -> list[LabelledTask]:
    """The named tasks of a folder, or all of them sorted by name.

    Args:
        draw: which of the published few-shot draws.
        sizes: most examples of each split; which ones depends on the seed.

    Raises:
        RetraceError: no folder, no such task, a missing or damaged file, labels and data that disagree.
    """
    if not folder.is_dir():
        raise RetraceError(f"--folder {folder} is not a folder: give one that holds labelled tasks")
    few_shot, json_lists = _find(folder)
    known = sorted({*few_shot, *json_lists}, key=str.casefold)
    if not known:
        raise RetraceError(f"--folder {folder} holds no task: want NAME/DRAW/train.txt or NAME.train.json files")
    tasks = []
    for name in names or known:
        if name in few_shot:
            task = _few_shot_task(name, few_shot[name], draw)
        elif name in json_lists:
            task = _json_task(name, json_lists[name], sizes["validation"], seed)
        else:
            raise RetraceError(f"data.tasks: {folder} has no task {name!r}; there are: {', '.join(known)}")
        task.check()
        splits = {split: _sample(task.splits[split], size, f"{split}{seed}") for split, size in sizes.items()}
        tasks.append(LabelledTask(name, task.labels, task.question, proxy=False, splits=splits, files=task.files))
        # Taking fewer examples may have lost a label altogether.
        tasks[-1].check()
    return tasks


def _find(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Task name -> its folder (few-shot), and task name -> the folder its JSON files lie in."""
    few_shot: dict[str, Path] = {}
    json_lists: dict[str, Path] = {}
    for root in (folder, folder / "fewshot", folder / "cl"):
        for path in sorted(root.glob("*/*/train.txt")):
            few_shot.setdefault(path.parents[1].name, path.parents[1])
        for path in sorted(root.glob("*.train.json")):
            json_lists.setdefault(path.name.removesuffix(".train.json"), root)
    return few_shot, json_lists


def _few_shot_task(name: str, folder: Path, draw: int) -> LabelledTask:
    if not (folder / str(draw)).is_dir():
        there = ", ".join(sorted(each.name for each in folder.iterdir() if each.is_dir()))
        raise RetraceError(f"task {name}: {folder} has no draw {draw}; set data.draw to one of {there}")
    files = {
        split: folder / str(draw) / f"{stem}.txt"
        for split, stem in (("train", "train"), ("validation", "valid"), ("test", "test"))
    }
    splits = {split: _tab_lines(name, path) for split, path in files.items()}
    labels = tuple(sorted({example.label for example in splits["train"]}))
    return _task(name, labels, splits, files)


def _tab_lines(name: str, path: Path) -> list[Example]:
    examples = []
    # Not splitlines(): the texts hold other line separators of Unicode.
    for number, line in enumerate(_read(name, path).split("\n"), start=1):
        if not line.strip():
            continue
        text, tab, label = line.rpartition("\t")
        if not tab or not text.strip() or not label.strip():
            raise RetraceError(f"task {name}: {path}:{number} is not `text<TAB>label`: mend the line")
        examples.append(Example(text.strip(), label.strip()))
    return examples


def _json_task(name: str, folder: Path, max_validation: int, seed: int) -> LabelledTask:
    files = {split: folder / f"{name}.{split}.json" for split in ("train", "test", "labels")}
    labels = _json(name, files["labels"])
    if not isinstance(labels, list) or not all(isinstance(each, str) and each for each in labels):
        raise RetraceError(f"task {name}: {files['labels']} is not a list of labels: mend the file")
    train = _sample(_json_examples(name, files["train"]), None, f"train{seed}")
    held_out = min(max_validation, int(MAX_VALIDATION_SHARE * len(train)))
    splits = {"train": train[held_out:], "validation": train[:held_out], "test": _json_examples(name, files["test"])}
    return _task(name, tuple(labels), splits, {**files, "validation": files["train"]})


def _json_examples(name: str, path: Path) -> list[Example]:
    rows = _json(name, path)
    examples = []
    for place, row in enumerate(rows if isinstance(rows, list) else [rows]):
        fields = row if isinstance(row, dict) else {}
        text, label = fields.get("sentence"), fields.get("label")
        if not isinstance(text, str) or not isinstance(label, str):
            raise RetraceError(
                f"task {name}: {path}: item {place} has no text in fields 'sentence' and 'label' "
                f"(there is: {', '.join(sorted(fields)) or 'nothing'}): mend the file"
            )
        examples.append(Example(text.strip(), label))
    return examples


def _task(name: str, labels: tuple[str, ...], splits: dict[str, list[Example]], files: dict[str, Path]) -> LabelledTask:
    question = _QUESTIONS.get(name, _ANY_QUESTION)
    return LabelledTask(name, labels, question, False, splits, {split: str(path) for split, path in files.items()})


def _sample(examples: list[Example], size: int | None, salt: str) -> list[Example]:
    """At most ``size`` examples in a pseudo-random order that their texts and the salt fix."""
    return sorted(examples, key=lambda example: (stable_order(example.text, salt), example.label))[:size]


def _json(name: str, path: Path) -> Any:
    try:
        return json.loads(_read(name, path))
    except json.JSONDecodeError as broken:
        raise RetraceError(f"task {name}: {path}:{broken.lineno}: broken JSON ({broken.msg}): mend the file") from None


def _read(name: str, path: Path) -> str:
    if not path.is_file():
        raise RetraceError(f"task {name}: {path} is missing: add it, or leave the task out of data.tasks")
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as fault:
        raise RetraceError(f"task {name}: {path}: byte {fault.start} is not UTF-8: convert the file") from None
