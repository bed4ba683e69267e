"""A folder of harness tasks: one YAML and one file of JSON lines a task, and harness_tasks.json over them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.evaluate.formats import FORMATS, Row, chance, check_row
from pipelines.evaluate.json_lines import read_json_lines, write_json_lines
from pipelines.runs.errors import RetraceError

INDEX = "harness_tasks.json"
HIGHER_IS_BETTER = {"acc": True, "acc_norm": True, "perplexity": False}
VERSION = 1.0


@dataclass(frozen=True)
class HarnessTask:
    """One task of a folder, with its items read and checked.

    Attributes:
        config: the harness's configuration, as its YAML gives it.
        card: the task's entry in harness_tasks.json.
        rows: the items.
    """

    name: str
    config: dict[str, Any]
    card: dict[str, Any]
    rows: list[Row]


def write_task(out: Path, name: str, format_name: str, metrics: tuple[str, ...], rows: list[Row]) -> dict[str, Any]:
    """Write a task's YAML and JSON lines; the card it returns belongs into harness_tasks.json.

    The YAML's data file is named relative to the folder: the harness's own command line reads it from there.
    """
    checked = [check_row(format_name, row, f"{name}, item {i}") for i, row in enumerate(rows)]
    write_json_lines(out / f"{name}.jsonl", checked)
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "fewshot_split": "test",
        **FORMATS[format_name].config,
    }
    if FORMATS[format_name].num_fewshot is not None:
        config["num_fewshot"] = FORMATS[format_name].num_fewshot
    config["metric_list"] = [
        {
            "metric": metric,
            "aggregation": "perplexity" if metric == "perplexity" else "mean",
            "higher_is_better": HIGHER_IS_BETTER[metric],
        }
        for metric in metrics
    ]
    config["metadata"] = {"version": VERSION}
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120)
    (out / f"{name}.yaml").write_text(text, encoding="utf-8")
    return {
        "metrics": list(metrics),
        "format": format_name,
        "proxy": name.endswith("_proxy"),
        "num_items": len(checked),
        "chance": round(chance(format_name, checked), 6),
    }


def write_index(out: Path, cards: dict[str, dict[str, Any]], **facts: Any) -> None:
    """Write harness_tasks.json: the tasks in their default order, and where they come from."""
    (out / INDEX).write_text(json.dumps({**facts, "tasks": cards}, indent=2) + "\n", encoding="utf-8")


def read_tasks(folder: Path, names: tuple[str, ...] | None) -> list[HarnessTask]:
    """Read the named tasks of a folder, or all of them, and check every item.

    Raises:
        RetraceError: no tasks, an unknown name, a YAML or a line that is not what it should be.
    """
    cards = _read_index(folder)
    unknown = sorted(set(names or ()) - set(cards))
    if unknown:
        raise RetraceError(f"tasks: {folder} has no task {', '.join(unknown)}; known: {', '.join(cards)}")
    return [_read_task(folder, name, cards[name]) for name in names or cards]


def _read_index(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / INDEX
    if not path.is_file():
        raise RetraceError(f"{folder} has no {INDEX}: make the tasks with `python -m pipelines evaluate tasks`")
    try:
        cards: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["tasks"]
        formats = {name: card["format"] for name, card in cards.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RetraceError(f"{path} is not an index of harness tasks: make the tasks again") from None
    if not cards:
        raise RetraceError(f"{path} lists no task: make the tasks again with at least one")
    for name, each in formats.items():
        if each not in FORMATS:
            raise RetraceError(f"{path}: task {name} has format {each!r}; known: {', '.join(FORMATS)}")
    return cards


def _read_task(folder: Path, name: str, card: dict[str, Any]) -> HarnessTask:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise RetraceError(f"{path} is missing, though {INDEX} lists the task: make the tasks again")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        file = config["dataset_kwargs"]["data_files"]["test"]
    except (yaml.YAMLError, KeyError, TypeError) as broken:
        reason = str(broken).replace("\n", " ")
        raise RetraceError(f"{path} is not a harness task over a local file ({reason}): make the tasks again") from None
    lines = folder / file
    rows = read_json_lines(lines, FORMATS[card["format"]].fields)
    if not rows:
        raise RetraceError(f"{lines} holds no item: make the tasks again")
    checked = [check_row(card["format"], row, f"{lines}:{number}") for number, row in enumerate(rows, start=1)]
    return HarnessTask(name, config, card, checked)
