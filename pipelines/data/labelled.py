"""A labelled task: examples in three splits, checked against its labels and written with its baselines."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError

TASK_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """A text and its label."""

    text: str
    label: str


@dataclass(frozen=True)
class LabelledTask:
    """One task.

    Attributes:
        question: what is asked of a text.
        proxy: derived by us, not a published data set.
        files: where each split was read, for messages.
    """

    name: str
    labels: tuple[str, ...]
    question: str
    proxy: bool
    splits: dict[str, list[Example]]
    files: dict[str, str]

    def check(self) -> None:
        """Hold labels and data against each other.

        Raises:
            RetraceError: fewer than two labels, a label in the data that is not declared, a declared one without
                training examples, or an empty split; names task, file and label.
        """
        if len(self.labels) < 2:
            raise RetraceError(f"task {self.name}: {self.files['train']} has fewer than two labels: nothing to learn")
        for split in TASK_SPLITS:
            where = f"task {self.name}: {self.files[split]}"
            if not self.splits[split]:
                raise RetraceError(f"{where} has no {split} examples: add some, or leave the task out of data.tasks")
            if unknown := sorted({each.label for each in self.splits[split]} - set(self.labels)):
                known = ", ".join(self.labels)
                raise RetraceError(f"{where} has label {unknown[0]!r}, which is not declared ({known}): mend either")
        if unused := [label for label in self.labels if label not in {each.label for each in self.splits["train"]}]:
            raise RetraceError(
                f"task {self.name}: {self.files['train']} has no example of the declared label {unused[0]!r}: "
                "add examples, or take the label out"
            )


def write_task(out: Path, task: LabelledTask) -> dict[str, Any]:
    """Write ``<task>/{train,validation,test}.jsonl`` and task.json; returns the card in it."""
    folder = out / task.name
    folder.mkdir(parents=True)
    for split in TASK_SPLITS:
        lines = (json.dumps({"text": e.text, "label": e.label}, ensure_ascii=False) for e in task.splits[split])
        (folder / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    card: dict[str, Any] = {
        "name": task.name,
        "labels": list(task.labels),
        "question": task.question,
        "proxy": task.proxy,
        **{f"num_{split}": len(task.splits[split]) for split in TASK_SPLITS},
        "majority_acc": majority_accuracy(task.splits["train"], task.splits["test"]),
        "bag_of_words_acc": bag_of_words_accuracy(task.splits["train"], task.splits["test"]),
    }
    (folder / "task.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def majority_accuracy(train: list[Example], test: list[Example]) -> float:
    """Share of test examples that carry the most frequent training label."""
    counts = Counter(example.label for example in train)
    # Among equally frequent labels the first in alphabetical order, so that the number is the same everywhere.
    majority = min(counts, key=lambda label: (-counts[label], label))
    return sum(example.label == majority for example in test) / len(test)


def bag_of_words_accuracy(train: list[Example], test: list[Example]) -> float:
    """Test accuracy of logistic regression on word counts: what the words alone say of the label."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = CountVectorizer(token_pattern=r"\w+|[^\w\s]")
    counts = vectorizer.fit_transform([example.text for example in train])
    model = LogisticRegression(max_iter=2000).fit(counts, [example.label for example in train])
    predicted = model.predict(vectorizer.transform([example.text for example in test]))
    return sum(str(guess) == example.label for guess, example in zip(predicted, test, strict=True)) / len(test)
