"""The harness over our YAML: known models get known scores, and the YAML alone means the same to the harness."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import LM

from pipelines.evaluate.run import final_metrics, score
from pipelines.evaluate.spec import RunSpec
from pipelines.evaluate.task_folder import HarnessTask, read_tasks, write_index, write_task
from pipelines.runs.errors import RetraceError


class Rule(LM):
    """A model whose log-likelihood of a request is a given function of it."""

    def __init__(self, nats: Callable[[Any], float], greedy: Callable[[Any], bool] = lambda _: False) -> None:
        super().__init__()
        self.nats, self.greedy, self.seen = nats, greedy, []

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.seen += [request.args for request in requests]
        return [(self.nats(request), self.greedy(request)) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError


def is_gold(request: Any) -> bool:
    return "gold" not in request.doc or request.idx == request.doc["gold"]


ROWS: dict[str, tuple[str, tuple[str, ...], list[dict[str, Any]]]] = {
    "cloze": (
        "cloze",
        ("perplexity", "acc"),
        [{"context": f"One {word} and", "target": word} for word in ("cat", "dog", "[1]")],
    ),
    "choice": (
        "multiple_choice",
        ("acc", "acc_norm"),
        [{"query": f"{i}", "choices": ["a", "bbbb", "cc"], "gold": i % 3} for i in range(6)],
    ),
    "schema": (
        "schema",
        ("acc",),
        [{"choices": ["the cat", "the dog"], "continuation": f"barked {i}.", "gold": i % 2} for i in range(4)],
    ),
    "pair": ("minimal_pair", ("acc",), [{"choices": [f"A b {i}.", f"B a {i}."], "gold": i % 2} for i in range(4)]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One small task of every format."""
    out = tmp_path / "tasks"
    out.mkdir()
    cards = {name: write_task(out, name, *entry) for name, entry in ROWS.items()}
    write_index(out, cards, source="embedded", seed=0)
    return out


def scored(lm: LM, tasks: list[HarnessTask], **spec: Any) -> dict[str, Any]:
    return final_metrics(score(lm, tasks, RunSpec(**spec)))


def test_a_model_that_prefers_the_gold_answer_is_always_right_and_its_opposite_never(folder: Path) -> None:
    tasks = read_tasks(folder, None)
    right = scored(Rule(lambda r: 0.0 if is_gold(r) else -50.0, is_gold), tasks)
    wrong = scored(Rule(lambda r: -50.0 if is_gold(r) else 0.0, lambda _: False), tasks)
    for name, (_, metrics, _) in ROWS.items():
        for metric in set(metrics) & {"acc", "acc_norm"}:
            assert right[f"{name}_{metric}"] == 1.0
            assert wrong[f"{name}_{metric}"] == 0.0
    assert (right["average_acc"], wrong["average_acc"]) == (1.0, 0.0)
    assert right["num_items"] == 17


def test_a_model_without_a_preference_scores_chance(folder: Path) -> None:
    tasks = read_tasks(folder, None)
    found = scored(Rule(lambda _: -1.0), tasks)
    for task in tasks:
        if task.card["format"] != "cloze":
            assert found[f"{task.name}_acc"] == pytest.approx(task.card["chance"], abs=1e-6)


def test_perplexity_is_of_the_target_and_accuracy_is_greedy(folder: Path) -> None:
    found = scored(Rule(lambda _: -math.log(10), lambda r: r.args[1] == " dog"), read_tasks(folder, ("cloze",)))
    assert found["cloze_ppl"] == pytest.approx(10)
    assert found["cloze_acc"] == pytest.approx(1 / 3)
    assert set(found) == {"cloze_ppl", "cloze_acc", "average_acc", "num_items"}


def test_acc_norm_divides_by_the_length_of_the_choice(tmp_path: Path) -> None:
    # Two nats for two letters lose to four nats for eight letters only after normalisation.
    rows = [
        {"query": "q", "choices": ["aa", "bbbbbbbb"], "gold": 0},
        {"query": "p", "choices": ["aa", "bbbbbbbb"], "gold": 1},
    ]
    write_index(tmp_path, {"t": write_task(tmp_path, "t", "multiple_choice", ("acc", "acc_norm"), rows)})
    model = Rule(lambda r: -2.0 if r.args[1] == " aa" else -4.0)
    found = score(model, read_tasks(tmp_path, None), RunSpec())["results"]["t"]
    assert (found["acc,none"], found["acc_norm,none"]) == (0.5, 0.5)
    only_first = score(model, read_tasks(tmp_path, None), RunSpec(limit=1))["results"]["t"]
    assert (only_first["acc,none"], only_first["acc_norm,none"]) == (1.0, 0.0)


def test_requests_hold_the_texts_with_one_space_between(folder: Path) -> None:
    model = Rule(lambda _: 0.0)
    scored(model, read_tasks(folder, None), limit=1)
    assert model.seen == [
        ("One cat and", " cat"),
        ("0", " a"),
        ("0", " bbbb"),
        ("0", " cc"),
        ("the cat", " barked 0."),
        ("the dog", " barked 0."),
        ("", " A b 0."),
        ("", " B a 0."),
    ]


def test_few_shot_examples_stand_before_the_item_and_are_never_the_item(folder: Path) -> None:
    first, again, other = (Rule(lambda _: 0.0) for _ in range(3))
    for model, seed in ((first, 0), (again, 0), (other, 5)):
        scored(model, read_tasks(folder, ("cloze", "choice", "pair")), num_fewshot=2, seed=seed)
    assert first.seen == again.seen != other.seen
    clozes = [context for context, target in first.seen if context.startswith("One")]
    assert len(clozes) == 3
    for context in clozes:
        *examples, asked = context.split("\n\n")
        assert len(examples) == 2
        for example in examples:
            words = example.split(" ")
            assert words[1] == words[-1] != asked.split(" ")[1]
    # Whole sentences take no examples, whatever is asked.
    assert sum(context == "" for context, _ in first.seen) == 8


def test_standard_errors_stay_in_the_results_and_can_be_left_out(folder: Path) -> None:
    tasks = read_tasks(folder, ("choice",))
    model = Rule(lambda r: -float(r.idx))
    results = score(model, tasks, RunSpec(bootstrap_iters=10))
    # Two of six right: the standard error of a mean of zeros and ones.
    assert results["results"]["choice"]["acc_stderr,none"] == pytest.approx(math.sqrt((1 / 3) * (2 / 3) / 5))
    assert not any("stderr" in name for name in final_metrics(results))
    assert score(model, tasks, RunSpec(bootstrap_iters=0))["results"]["choice"]["acc_stderr,none"] == "N/A"


def test_results_say_nothing_of_the_place_or_the_moment(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = [json.dumps(score(Rule(lambda r: -float(r.idx)), read_tasks(folder, None), RunSpec())) for _ in range(2)]
    assert texts[0] == texts[1]
    assert str(folder) not in texts[0]
    assert capfd.readouterr().out == ""


def test_the_yaml_read_by_the_harness_itself_asks_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(folder)
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load(list(ROWS))
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=0)
    theirs, ours = Rule(lambda r: -float(len(r.args[1]))), Rule(lambda r: -float(len(r.args[1])))
    found = evaluate(theirs, loaded, bootstrap_iters=100, log_samples=False)
    results = score(ours, read_tasks(folder, None), RunSpec())
    assert theirs.seen == ours.seen
    assert found["results"] == results["results"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("choice.jsonl", '{"query": "q", "choices": ["a", "b"]}\n', r"choice\.jsonl:1: field 'gold' is missing"),
        ("choice.jsonl", '{"query": "q", "choices": ["a"], "gold": 0}\n', r"choice\.jsonl:1: choices must be two"),
        ("choice.jsonl", "", r"choice\.jsonl holds no item"),
        ("choice.jsonl", None, r"no such file: .*choice\.jsonl"),
        ("cloze.jsonl", '{"context": " ", "target": "x"}\n', r"cloze\.jsonl:1: context and target must not be empty"),
        ("choice.yaml", "task: [", r"choice\.yaml is not a harness task"),
        ("choice.yaml", None, r"choice\.yaml is missing"),
        ("harness_tasks.json", '{"tasks": {}}', r"lists no task"),
        ("harness_tasks.json", "{}", r"is not an index of harness tasks"),
        ("harness_tasks.json", '{"tasks": {"x": {"format": "essay"}}}', r"task x has format 'essay'; known: cloze"),
        ("harness_tasks.json", None, r"has no harness_tasks\.json"),
    ],
)
def test_a_broken_tasks_folder_is_named(folder: Path, file: str, text: str | None, message: str) -> None:
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(RetraceError, match=message):
        read_tasks(folder, None)


def test_an_unknown_task_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(RetraceError, match="has no task hellaswag; known: cloze, choice, schema, pair"):
        read_tasks(folder, ("cloze", "hellaswag"))
