"""The real sets: every file parses, sizes and chance levels are the published ones, prompts are the harness's."""

from __future__ import annotations

import bz2
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.evaluate.local_sets import LOCAL_SETS, read_local_set
from pipelines.evaluate.spec import LOCAL_TASKS, TasksSpec
from pipelines.evaluate.tasks import tasks
from pipelines.runs.errors import RetraceError

# Task -> (items of its evaluation split, chance among its choices).
PUBLISHED = {
    "lambada_openai": (5153, None),
    "winogrande": (1267, 0.5),
    "arc_easy": (2376, 0.25),
    "arc_challenge": (1172, 0.25),
    "piqa": (1838, 0.5),
    "openbookqa": (500, 0.25),
    "logiqa": (651, 0.25),
    "boolq": (3270, 0.5),
    "copa": (100, 0.5),
    "hellaswag": (10042, 0.25),
}


def test_every_set_is_listed_once() -> None:
    assert tuple(LOCAL_SETS) == LOCAL_TASKS
    assert set(PUBLISHED) == set(LOCAL_TASKS)


@pytest.mark.parametrize("name", LOCAL_TASKS)
def test_a_real_set_has_its_published_size_and_chance(shared_data: Path, make_job: Callable, name: str) -> None:
    job = make_job(name)
    tasks(TasksSpec(source="local", tasks=(name,), max_items=None), {"folder": shared_data / "eval"}, job)
    card = json.loads((job.out / "harness_tasks.json").read_text())["tasks"][name]
    size, chance = PUBLISHED[name]
    assert card["num_items"] == size
    assert not card["proxy"]
    if chance is None:
        assert 0 < card["chance"] < 0.1
    else:
        assert card["chance"] == chance
    assert card["metrics"] == list(LOCAL_SETS[name].metrics)


def test_a_limit_draws_by_the_seed(shared_data: Path, make_job: Callable) -> None:
    found = []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        job = make_job(name)
        spec = TasksSpec(source="local", tasks=("piqa",), max_items=50, seed=seed)
        tasks(spec, {"folder": shared_data / "eval"}, job)
        found.append((job.out / "piqa.jsonl").read_bytes())
    assert found[0] == found[1] != found[2]
    assert found[0].count(b"\n") == 50


def test_prompts_are_worded_as_the_harness_words_them(tmp_path: Path) -> None:
    question = {"query": "Question: Why?", "choices": ["x", "y"], "gold": 1}
    logic = "Context: C.\nQuestion: Q?\nChoices: A. one\nB. two\nC. three\nD. four\n"
    lines = {
        "arc_easy.jsonl": question,
        "piqa.jsonl": {**question, "query": "Question: How?\n"},
        "boolq.jsonl": {**question, "query": "Passage: P.\nQuestion: q?", "choices": ["no", "yes"]},
        "copa.jsonl": {**question, "query": "It rained, therefore"},
        "logi_qa.jsonl": {"query": logic, "choices": ["A", "B", "C", "D"], "gold": 2},
        "winogrande.jsonl": {"context_options": ["a so a", "a so b"], "continuation": "won.", "gold": 0},
        "lambada_openai.jsonl": {"context": "He said", "continuation": "no"},
    }
    for file, line in lines.items():
        (tmp_path / file).write_text(json.dumps(line) + "\n")
    first = {
        name: read_local_set(tmp_path, name)[0] for name in LOCAL_SETS if (tmp_path / LOCAL_SETS[name].file).exists()
    }
    assert first["arc_easy"] == {"query": "Question: Why?\nAnswer:", "choices": ["x", "y"], "gold": 1}
    assert first["piqa"]["query"] == "Question: How?\nAnswer:"
    assert first["boolq"]["query"] == "P.\nQuestion: q?\nAnswer:"
    assert first["copa"]["query"] == "It rained therefore"
    assert first["logiqa"] == {
        "query": "Passage: C.\nQuestion: Q?\nChoices:\nA. one\nB. two\nC. three\nD. four\nAnswer:",
        "choices": ["one", "two", "three", "four"],
        "gold": 2,
    }
    assert first["winogrande"] == {"choices": ["a so a", "a so b"], "continuation": "won.", "gold": 0}
    assert first["lambada_openai"] == {"context": "He said", "target": "no"}


def test_hellaswag_lines_are_taken_six_by_six(tmp_path: Path) -> None:
    text = "A: he\n1\nruns.\nsits.\nflies.\nsings.\n"
    (tmp_path / "hellaswag_val_full.txt.bz2").write_bytes(bz2.compress(text.encode()))
    row = {"query": "A: he", "choices": ["runs.", "sits.", "flies.", "sings."], "gold": 1}
    assert read_local_set(tmp_path, "hellaswag") == [row]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("piqa.jsonl", b'{"query": "q", "gold": 0}\n', r"piqa\.jsonl:1: field 'choices' is missing"),
        ("piqa.jsonl", b'{"query": "q", "choices": ["a", "b"], "gold": true}\n', r"field 'gold' must be int"),
        ("piqa.jsonl", b'{"query": "q", "choices": ["a", "b"], "gold": 2}\n', r"gold is 2 but there are 2 choices"),
        ("piqa.jsonl", b'{"query": "q", "choices": ["a", ""], "gold": 0}\n', r"choices must be two or more texts"),
        ("piqa.jsonl", None, r"piqa\.jsonl is missing"),
        ("logi_qa.jsonl", b'{"query": "q", "choices": ["A", "B"], "gold": 0}\n', r"logi_qa\.jsonl:1: query is not"),
        ("hellaswag_val_full.txt.bz2", bz2.compress(b"A\n9\na\nb\nc\nd\n"), r":2: the index of the true ending"),
        ("hellaswag_val_full.txt.bz2", bz2.compress(b"A\n1\na\n"), r"3 lines are not a multiple of 6"),
        ("hellaswag_val_full.txt.bz2", b"plain", r"not a bzip2 file"),
    ],
)
def test_a_broken_file_is_named(
    tmp_path: Path, make_job: Callable, file: str, content: bytes | None, message: str
) -> None:
    name = next(name for name, entry in LOCAL_SETS.items() if entry.file == file)
    if content is not None:
        (tmp_path / file).write_bytes(content)
    spec = TasksSpec(source="local", tasks=(name,), min_items=1)
    with pytest.raises(RetraceError, match=message):
        tasks(spec, {"folder": tmp_path}, make_job("broken"))


def test_the_input_of_the_source_is_demanded_and_no_other(tmp_path: Path, make_job: Callable) -> None:
    with pytest.raises(RetraceError, match="--folder is missing: source local reads it"):
        tasks(TasksSpec(source="local"), {}, make_job("a"))
    with pytest.raises(RetraceError, match="--corpus is missing: source embedded reads it"):
        tasks(TasksSpec(), {}, make_job("b"))
    with pytest.raises(RetraceError, match="--corpus is not read by source local"):
        tasks(TasksSpec(source="local"), {"folder": tmp_path, "corpus": tmp_path}, make_job("c"))


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="source local has no task mmlu; known: lambada_openai, winogrande"):
        TasksSpec(source="local", tasks=("mmlu",))
    with pytest.raises(ValueError, match="max_items 5 is below min_items 20"):
        TasksSpec(max_items=5)
