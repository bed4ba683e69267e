"""The four shapes a task can take, each as the harness's YAML keys and as the fields of its JSON lines.

The wording follows lm-evaluation-harness's own task files: LAMBADA, ARC and PIQA, WinoGrande, BLiMP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.runs.errors import RetraceError

Row = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """How the harness reads a line.

    Attributes:
        fields: name -> type of what each line must hold.
        config: the harness's keys that turn a line into requests.
        metrics: what the shape can be scored with.
        num_fewshot: fixed number of solved examples; None leaves it to the run.
    """

    fields: dict[str, type]
    config: dict[str, Any]
    metrics: tuple[str, ...]
    num_fewshot: int | None = None


FORMATS: dict[str, Format] = {
    # Predict the last word. The target brings its own space, so that few-shot examples do not get two.
    "cloze": Format(
        fields={"context": str, "target": str},
        config={
            "output_type": "loglikelihood",
            "doc_to_text": "context",
            "doc_to_target": "{{' ' + target}}",
            "target_delimiter": "",
        },
        metrics=("perplexity", "acc"),
    ),
    "multiple_choice": Format(
        fields={"query": str, "choices": list, "gold": int},
        config={
            "output_type": "multiple_choice",
            "doc_to_text": "query",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
        },
        metrics=("acc", "acc_norm"),
    ),
    # One continuation behind several contexts: the harness finds the gold index where the text would be.
    "schema": Format(
        fields={"choices": list, "continuation": str, "gold": int},
        config={
            "output_type": "multiple_choice",
            "doc_to_text": "gold",
            "doc_to_choice": "choices",
            "doc_to_target": "continuation",
        },
        metrics=("acc",),
    ),
    # Whole sentences against each other, without a context; examples before them would mean nothing.
    "minimal_pair": Format(
        fields={"choices": list, "gold": int},
        config={
            "output_type": "multiple_choice",
            "doc_to_text": "",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
        },
        metrics=("acc",),
        num_fewshot=0,
    ),
}


def check_row(format_name: str, row: Row, where: str) -> Row:
    """Refuse a line the harness would misread.

    Raises:
        RetraceError: an empty text, fewer than two choices, or a gold index outside them.
    """
    if format_name == "cloze":
        if not row["context"].strip() or not row["target"].strip():
            raise RetraceError(f"{where}: context and target must not be empty")
        return row
    choices = row["choices"]
    if len(choices) < 2 or not all(isinstance(each, str) and each.strip() for each in choices):
        raise RetraceError(f"{where}: choices must be two or more texts, none empty")
    if not 0 <= row["gold"] < len(choices):
        raise RetraceError(f"{where}: gold is {row['gold']} but there are {len(choices)} choices")
    if not row.get("query", "x").strip() or not row.get("continuation", "x").strip():
        raise RetraceError(f"{where}: query and continuation must not be empty")
    return row


def chance(format_name: str, rows: list[Row]) -> float:
    """Expected accuracy of guessing.

    Among choices: uniformly. For a cloze: a uniformly drawn distinct word of the context, since the vocabulary is open.
    """
    if format_name == "cloze":
        return sum(_cloze_guess(row) for row in rows) / len(rows)
    return sum(1 / len(row["choices"]) for row in rows) / len(rows)


def _cloze_guess(row: Row) -> float:
    words = {each.strip(".,;:!?\"'()[]`*").casefold() for each in row["context"].split()} - {""}
    return 1 / len(words) if row["target"].casefold() in words else 0.0
