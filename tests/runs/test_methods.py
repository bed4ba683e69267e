"""Methods are found by file name and read without being imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.runs import methods
from pipelines.runs.errors import RetraceError


@pytest.fixture
def stage(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The methods folder of the tree's growth stage, read in place of the real one."""
    monkeypatch.setattr(methods, "PIPELINES", tree / "pipelines")
    methods.method_card.cache_clear()
    yield tree / "pipelines" / "growth" / "methods"
    methods.method_card.cache_clear()


def test_a_card_says_what_the_file_says(stage):
    card = methods.method_card("growth", "stack")
    assert (card.class_name, card.summary, card.requires) == ("Stack", "Stack layers (a paper).", ("base",))
    assert [(h.name, h.annotation, h.default) for h in card.hyperparameters.values()] == [
        ("growth_factor", "int", ...),
        ("timing", "float", 0.5),
        ("order", "Literal['depth', 'width']", "depth"),
        ("layers", "tuple[int, ...]", (1, 2)),
        ("name_of", "str | None", None),
        ("exact", "bool", False),
    ]


def test_a_file_is_a_method_without_a_list_to_edit(stage):
    (stage / "wider.py").write_text(
        '"""Wider."""\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\nclass W:\n  pass\n'
    )
    assert methods.list_methods("growth") == ["scratch", "stack", "wider"]
    assert methods.resolve_method("growth", "wider") == {"name": "wider"}


def test_a_resolved_method_spells_out_every_default_with_its_type(stage):
    resolved = methods.resolve_method("growth", {"name": "stack", "growth_factor": 4.0, "timing": 1})
    assert resolved == {
        "name": "stack",
        "growth_factor": 4,
        "timing": 1.0,
        "order": "depth",
        "layers": [1, 2],
        "name_of": None,
        "exact": False,
    }
    assert isinstance(resolved["growth_factor"], int)
    assert isinstance(resolved["timing"], float)
    assert methods.resolve_method("growth", resolved) == resolved


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "stack"}, "growth.stack.growth_factor is missing"),
        ({"name": "stack", "growth_factor": 2.5}, "growth.stack.growth_factor must be int, got 2.5"),
        ({"name": "stack", "growth_factor": True}, "growth.stack.growth_factor must be int, got True"),
        ({"name": "stack", "growth_factor": 2, "order": "up"}, "growth.stack.order must be Literal"),
        ({"name": "stack", "growth_factor": 2, "layers": ["a"]}, "growth.stack.layers must be tuple"),
        ({"name": "stack", "growth_factor": 2, "name_of": 3}, r"growth.stack.name_of must be str \| None, got 3"),
        ({"name": "stack", "growth_factor": 2, "exact": "perhaps"}, "growth.stack.exact must be bool"),
        ({"name": "stack", "factor": 2}, "unknown hyper-parameter factor; stack takes: growth_factor, timing"),
        ({"name": "stak"}, "growth has no method 'stak'; known: scratch, stack"),
        ({"growth_factor": 2}, "method needs a name; known: scratch, stack"),
    ],
)
def test_a_wrong_method_is_refused_by_key(stage, given, message):
    with pytest.raises(RetraceError, match=message):
        methods.resolve_method("growth", given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X = 1\n", "exactly one @dataclass"),
        ("from dataclasses import dataclass\n@dataclass\nclass A:\n  a: int = 1\n", "exactly one @dataclass"),
        (
            "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass A:\n  a: int = 2**3\n",
            r"a: a default must be a literal, not 2 \*\* 3",
        ),
        (
            "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass A:\n  a: list[int] = None\n",
            r"type 'list\[int\]' is not one of",
        ),
    ],
)
def test_a_file_that_is_no_method_is_refused_by_name(stage, text, message):
    (stage / "odd.py").write_text(text)
    with pytest.raises(RetraceError, match=message):
        methods.resolve_method("growth", "odd")


def test_a_method_is_built_with_tuples_where_json_had_lists(tree):
    program = (
        "from pipelines.runs.methods import load_method\n"
        "method = load_method('growth', {'name': 'stack', 'growth_factor': 2, 'layers': [3, 4]})\n"
        "print(method.layers, hash(method) == hash(load_method('growth', {'name': 'stack', 'growth_factor': 2,"
        " 'layers': (3, 4)})))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(3, 4) True"


def test_listing_and_describing_every_method_and_verb_imports_nothing_heavy(root):
    program = """
import sys
from pipelines.runs.command import spec_rows
from pipelines.runs.methods import list_methods, method_card
from pipelines.runs.verb import STAGES, Verb, stage_verbs
for stage in STAGES:
    for name in list_methods(stage):
        method_card(stage, name)
    for verb in stage_verbs(stage).values():
        if isinstance(verb, Verb):
            spec_rows(verb.spec)
import pipelines.runs.records
heavy = "torch transformers megatron datasets lm_eval mlflow pandas scipy sklearn matplotlib peft tokenizers".split()
print(sorted(set(heavy) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_methods_command_lists_summary_and_hyper_parameters(tree, run_cli):
    text = run_cli("runs", "methods", "growth", cwd=tree).stdout
    assert "growth.stack: Stack layers (a paper).\n    growth_factor: int required\n    timing: float = 0.5\n" in text
    assert "    needs --base\n" in text
    assert "growth.scratch: From scratch.\n" in run_cli("runs", "methods", cwd=tree).stdout
