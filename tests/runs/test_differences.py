"""What two jobs differ in is said in the words of params.yaml, of files and of packages, and each cause once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.runs.differences import Comparison, Input, Parts, describe

SPEC = {"method": {"name": "stack", "growth_factor": 2}, "training": {"lr": 0.003}, "seed": 0}
CODE = {"pipelines/growth/training.py": "1", "pipelines/growth/methods/stack.py": "2"}
BASE = Parts(
    key="base-1",
    path="results/pretrain/bpe/default/seed0",
    stage="pretrain",
    verb="train",
    spec={"training": {"lr": 0.003}},
    inputs={},
    code={},
    code_digest="c",
    versions={},
)
GROWN = Parts(
    key="grown-1",
    path="results/growth/stack/default/seed0",
    stage="growth",
    verb="train",
    spec=SPEC,
    inputs={"base": (Input("base-1", BASE.path),)},
    code=CODE,
    code_digest="c",
    versions={"torch": "2.12.0", "numpy": "2.0"},
)
OTHER_BASE = replace(BASE, key="base-2", spec={"training": {"lr": 0.004}})


def said(before: Parts, after: Parts, *known: Parts) -> str:
    jobs = {each.key: each for each in known}
    return describe(Comparison(jobs.get).of(before, replace(after, key="another")))


def test_everything_that_differs_is_on_one_line() -> None:
    after = replace(
        GROWN,
        spec={**SPEC, "method": {"name": "stack", "growth_factor": 4}},
        inputs={"base": (Input("base-2", BASE.path),)},
        code={**CODE, "pipelines/growth/methods/stack.py": "3"},
        versions={"torch": "2.13.0", "numpy": "2.0"},
    )
    assert said(GROWN, after, BASE, OTHER_BASE) == (
        "growth.stack.growth_factor 2 -> 4; pipelines/growth/methods/stack.py changed; torch 2.12.0 -> 2.13.0; "
        "input base: results/pretrain/bpe/default/seed0 differs because pretrain.training.lr 0.003 -> 0.004"
    )


def test_equal_keys_differ_in_nothing() -> None:
    assert Comparison({}.get).of(GROWN, replace(GROWN, spec={})) == ()


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({**SPEC, "seed": 1}, "growth.seed 0 -> 1"),
        ({**SPEC, "training": {"lr": None}}, "growth.training.lr 0.003 -> null"),
        ({**SPEC, "training": {"lr": 0.003, "steps": [1, 2]}}, "growth.training.steps added"),
        ({**SPEC, "training": {"lr": 0.003, "steps": 5}}, "growth.training.steps added (5)"),
        ({"method": SPEC["method"], "seed": 0}, "growth.training dropped"),
        ({**SPEC, "method": {"name": "scratch", "more": 1}}, "growth.method stack -> scratch"),
        ({**SPEC, "method": {"name": "stack", "growth_factor": "a\nb"}}, 'growth.stack.growth_factor 2 -> "a\\nb"'),
    ],
)
def test_a_parameter_is_named_as_params_yaml_names_it(spec: dict[str, Any], line: str) -> None:
    assert said(GROWN, replace(GROWN, spec=spec)) == line


def test_a_verb_whose_block_is_not_its_stage_is_named_by_the_block() -> None:
    tasks = replace(BASE, stage="data", verb="tasks", spec={"max_train": 1})
    assert said(tasks, replace(tasks, spec={"max_train": 2})) == "continual.tasks.max_train 1 -> 2"


def test_a_paper_is_told_apart_by_its_tables_rows_and_their_order() -> None:
    rows = [{"name": "scratch", "label": "from scratch"}, {"name": "stack", "label": "stacked"}]
    table = {"name": "operators", "rows": rows, "seeds": [0], "cells": [{"row": "scratch", "run": 0}]}
    paper = replace(BASE, stage="tables", verb="build", spec={"paper": "gstack", "tables": [table]})

    def changed(**values: Any) -> str:
        return said(paper, replace(paper, spec={"paper": "gstack", "tables": [{**table, **values}]}))

    name = "papers/gstack/paper.yaml: tables.operators"
    assert changed(seeds=[0, 1], cells=[]) == f"{name}.seeds [0] -> [0, 1]"
    assert changed(rows=[rows[0]]) == f"{name}.rows.stack dropped"
    assert changed(rows=[rows[0], {**rows[1], "label": "ours"}]) == f"{name}.rows.stack.label stacked -> ours"
    assert changed(rows=rows[::-1]) == f'{name}.rows ["scratch", "stack"] -> ["stack", "scratch"]'


def test_files_and_packages_come_and_go() -> None:
    after = replace(GROWN, code={"pipelines/growth/depth.py": "1", **CODE}, versions={"torch": "2.12.0", "scipy": "1"})
    assert said(GROWN, after) == "pipelines/growth/depth.py added; scipy added (1); numpy dropped (2.0)"


def test_a_run_that_did_not_record_its_files_says_only_that_code_changed() -> None:
    assert said(replace(GROWN, code=None), replace(GROWN, code_digest="d")) == "code of pipelines/ changed"


def test_of_many_files_the_first_few_are_named() -> None:
    after = replace(GROWN, code={f"pipelines/{number}.py": "1" for number in range(20)}, versions={})
    line = said(replace(GROWN, code={}), after)
    assert line.startswith("pipelines/0.py added; pipelines/1.py added; ")
    assert "; 14 more files of pipelines/; torch dropped" in line


def test_an_input_is_traced_to_what_makes_it_differ_in_the_end_each_cause_once() -> None:
    tokens = replace(BASE, key="tokens-1", stage="tokenizer", verb="tokenize", spec={})
    corpus = replace(BASE, key="corpus-1", stage="data", verb="build", spec={"max_bytes": 1})
    others = replace(tokens, key="tokens-2"), replace(corpus, key="corpus-2", spec={"max_bytes": 2})
    tokens = replace(tokens, inputs={"tokenizer": (Input("corpus-1", "c"),), "corpus": (Input("corpus-1", "c"),)})
    others = (replace(others[0], inputs={name: (Input("corpus-2", "c"),) for name in tokens.inputs}), others[1])
    before = replace(GROWN, inputs={"tokens": (Input("tokens-1", "t"),), "base": (Input("base-1", "b"),)})
    after = replace(GROWN, inputs={"tokens": (Input("tokens-2", "t"),), "base": (Input("base-2", "b"),)})
    second = replace(OTHER_BASE, inputs={"tokens": (Input("tokens-2", "t"),)})
    first = replace(BASE, inputs={"tokens": (Input("tokens-1", "t"),)})
    assert said(before, after, tokens, corpus, *others, first, second) == (
        "input tokens: t differs because data.max_bytes 1 -> 2; "
        "input base: b differs because (pretrain.training.lr 0.003 -> 0.004; data.max_bytes 1 -> 2)"
    )


def test_an_input_of_which_nothing_is_known_just_differs() -> None:
    after = replace(GROWN, inputs={"base": (Input("base-2", BASE.path),)})
    assert said(GROWN, after, OTHER_BASE) == f"input base: {BASE.path} differs"


def test_of_many_inputs_those_that_stay_are_not_named() -> None:
    before = replace(GROWN, inputs={"run": (Input("1", "a"), Input("2", "b"), Input("3", "c"))})
    after = replace(GROWN, inputs={"run": (Input("9", "b"), Input("1", "a"), Input("4", "d"))})
    assert said(before, after) == "input run: b differs; input run: d added; input run: c dropped"
