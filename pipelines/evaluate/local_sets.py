"""Real evaluation sets of a local folder, worded as lm-evaluation-harness words them.

The files are the ones MosaicML's llm-foundry ships (one JSON object a line) and klosax's text of HellaSwag (six lines
an item). Where their prompt differs from the harness's task of that name, it is rewritten here:

- arc_easy, arc_challenge, piqa: ``Question: ...\\nAnswer:``.
- boolq: the passage without its label, the question, ``Answer:``.
- copa: the connective without the comma before it. The harness's own task doubles the space before each choice; here
  it is single.
- logiqa: ``Passage``, ``Question``, the four lettered choices, ``Answer:``, and the choices' text is scored. In this
  copy of the file a few choices lack their first letter.
- openbookqa, winogrande, hellaswag, lambada_openai: as they are.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.evaluate.formats import FORMATS, Row
from pipelines.evaluate.json_lines import read_json_lines
from pipelines.runs.errors import RetraceError

_QUESTION = {"query": str, "choices": list, "gold": int}
_LOGIQA = re.compile(
    r"Context: (.*?)\nQuestion: (.*?)\nChoices: A\. (.*?)\nB\. (.*?)\nC\. (.*?)\nD\. (.*?)\n?", re.DOTALL
)
HELLASWAG_LINES = 6


@dataclass(frozen=True)
class LocalSet:
    """One real set.

    Attributes:
        file: its name in the folder.
        format: key of FORMATS.
        metrics: the metrics the harness reports for it.
        fields: what each line of the file must hold.
        row: turns a line (and where it stands, for errors) into a row of the format.
    """

    file: str
    format: str
    metrics: tuple[str, ...]
    fields: dict[str, type]
    row: Callable[[Row, str], Row]


def read_local_set(folder: Path, name: str) -> list[Row]:
    """Every item of a set, in the order of its file.

    Raises:
        RetraceError: the file is missing or a line is not what it should be (file:line).
    """
    entry = LOCAL_SETS[name]
    path = folder / entry.file
    if not path.is_file():
        raise RetraceError(f"{path} is missing: put it there, or leave {name} out of tasks")
    if path.suffix == ".bz2":
        return _read_hellaswag(path)
    lines = read_json_lines(path, entry.fields)
    return [entry.row(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _read_hellaswag(path: Path) -> list[Row]:
    """Six lines an item: context, index of the true ending, four endings."""
    try:
        lines = bz2.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, ValueError) as broken:
        raise RetraceError(f"{path}: not a bzip2 file of UTF-8 text ({broken}); fetch it again") from None
    if lines[-1] == "":
        lines.pop()
    if len(lines) % HELLASWAG_LINES:
        raise RetraceError(f"{path}: {len(lines)} lines are not a multiple of {HELLASWAG_LINES}; fetch it again")
    rows = []
    for start in range(0, len(lines), HELLASWAG_LINES):
        query, gold, *choices = lines[start : start + HELLASWAG_LINES]
        if gold not in {"0", "1", "2", "3"}:
            raise RetraceError(f"{path}:{start + 2}: the index of the true ending must be 0 to 3, got {gold!r:.40}")
        rows.append({"query": query, "choices": choices, "gold": int(gold)})
    return rows


def _question(row: Row, query: str) -> Row:
    return {"query": query, "choices": row["choices"], "gold": row["gold"]}


def _answered(row: Row, where: str) -> Row:
    return _question(row, row["query"].rstrip("\n") + "\nAnswer:")


def _as_it_is(row: Row, where: str) -> Row:
    return _question(row, row["query"])


def _boolq(row: Row, where: str) -> Row:
    return _answered({**row, "query": row["query"].removeprefix("Passage: ")}, where)


def _copa(row: Row, where: str) -> Row:
    return _question(row, re.sub(r",(?= (?:because|therefore)$)", "", row["query"]))


def _logiqa(row: Row, where: str) -> Row:
    parts = _LOGIQA.fullmatch(row["query"])
    if parts is None:
        raise RetraceError(f"{where}: query is not 'Context: ... Question: ... Choices: A. ... B. ... C. ... D. ...'")
    passage, question, *choices = parts.groups()
    listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", choices, strict=True))
    query = f"Passage: {passage}\nQuestion: {question}\nChoices:\n{listed}Answer:"
    return {"query": query, "choices": choices, "gold": row["gold"]}


def _lambada(row: Row, where: str) -> Row:
    return {"context": row["context"], "target": row["continuation"]}


def _winogrande(row: Row, where: str) -> Row:
    return {"choices": row["context_options"], "continuation": row["continuation"], "gold": row["gold"]}


_ACC = ("acc",)
_BOTH = ("acc", "acc_norm")

LOCAL_SETS: dict[str, LocalSet] = {
    "lambada_openai": LocalSet(
        "lambada_openai.jsonl", "cloze", FORMATS["cloze"].metrics, {"context": str, "continuation": str}, _lambada
    ),
    "winogrande": LocalSet(
        "winogrande.jsonl",
        "schema",
        _ACC,
        {"context_options": list, "continuation": str, "gold": int},
        _winogrande,
    ),
    "arc_easy": LocalSet("arc_easy.jsonl", "multiple_choice", _BOTH, _QUESTION, _answered),
    "arc_challenge": LocalSet("arc_challenge.jsonl", "multiple_choice", _BOTH, _QUESTION, _answered),
    "piqa": LocalSet("piqa.jsonl", "multiple_choice", _BOTH, _QUESTION, _answered),
    "openbookqa": LocalSet("openbook_qa.jsonl", "multiple_choice", _BOTH, _QUESTION, _as_it_is),
    "logiqa": LocalSet("logi_qa.jsonl", "multiple_choice", _BOTH, _QUESTION, _logiqa),
    "boolq": LocalSet("boolq.jsonl", "multiple_choice", _ACC, _QUESTION, _boolq),
    "copa": LocalSet("copa.jsonl", "multiple_choice", _ACC, _QUESTION, _copa),
    "hellaswag": LocalSet("hellaswag_val_full.txt.bz2", "multiple_choice", _BOTH, {}, _as_it_is),
}
