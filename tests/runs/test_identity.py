"""What changes a job's identity, and what must not."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.runs.verb import Spec, Verb

GROW = Verb(help="", implementation="pipelines.growth.training:train", spec=Spec)


def load_identity(tree: Path) -> ModuleType:
    """The tree's own identity module: its ROOT is the tree, and nothing is cached from an earlier reading."""
    spec = importlib.util.spec_from_file_location("tree_identity", tree / "pipelines" / "runs" / "identity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(tree: Path, method: str = "stack") -> str:
    return load_identity(tree).code_digest("growth", GROW, method)


@pytest.fixture
def edit(tree: Path) -> Callable[[str, str, str], None]:
    """Replace text in a file of the stage."""

    def edit(name: str, old: str, new: str) -> None:
        path = tree / "pipelines" / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return edit


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("growth/formula.py", "1.0 / step", "2.0 / step"),
        ("growth/training.py", "growing", "grown"),
        ("growth/methods/stack.py", "timing: float = 0.5", "timing: float = 0.25"),
        ("growth/methods/stack.py", "growth_factor: int\n", "growth_factor: int\n    more: int = 1\n"),
        ("runs/methods.py", "sorted(path.stem", "list(path.stem"),
        ("runs/errors.py", "class RetraceError(Exception):", "class RetraceError(ValueError):"),
    ],
)
def test_a_change_in_what_a_job_imports_changes_its_digest(tree, edit, name, old, new):
    before = code(tree)
    edit(name, old, new)
    assert code(tree) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("growth/formula.py", "return 1.0 / step", "# one over the step\n\n    return (1.0 /\n        step)"),
        ("growth/formula.py", "def loss(step):\n", 'def loss(step):\n    """The loss, better explained."""\n'),
        ("growth/training.py", '"""The work."""', '"""The work, in other words."""'),
        ("growth/training.py", '"""Add numbers."""', '"""Add numbers, quickly."""'),
        ("growth/unrelated.py", "VALUE = 1", "VALUE = 2"),
        ("growth/methods/scratch.py", "int = 1", "int = 2"),
        ("growth/verbs.py", "Add numbers.", "Add more numbers."),
        ("runs/progress.py", "10.0", "20.0"),
        ("runs/command.py", "Keys of", "The keys of"),
    ],
)
def test_comments_docstrings_formatting_and_unrelated_code_change_nothing(tree, edit, name, old, new):
    before = code(tree)
    edit(name, old, new)
    assert code(tree) == before


def test_a_new_method_changes_no_other_method(tree):
    before = code(tree), code(tree, "scratch")
    (tree / "pipelines" / "growth" / "methods" / "wider.py").write_text("X = 1\n")
    assert (code(tree), code(tree, "scratch")) == before
    assert before[0] != before[1]


def test_the_digest_is_taken_over_one_entry_a_module_and_says_which_file_changed(tree, edit):
    before = load_identity(tree).code_of_modules("growth", GROW, "stack")
    assert {"pipelines/growth/training.py", "pipelines/growth/methods/stack.py"} < set(before)
    assert all(len(each) == 16 for each in before.values())
    assert code(tree) == load_identity(tree).digest(before)
    edit("growth/formula.py", "1.0 / step", "2.0 / step")
    after = load_identity(tree).code_of_modules("growth", GROW, "stack")
    assert {name for name in after if after[name] != before.get(name)} == {"pipelines/growth/formula.py"}
    assert set(after) == set(before)


def test_code_is_read_once_a_process(tree, monkeypatch):
    identity = load_identity(tree)
    read: list[str] = []
    parse = identity.ast.parse
    monkeypatch.setattr(identity.ast, "parse", lambda text, name: [read.append(name), parse(text, name)][1])
    for seed in range(100):
        for method in ("stack", "scratch"):
            identity.job_key("growth", "train", GROW, {"method": {"name": method}, "seed": seed}, {})
    assert sorted(read) == sorted(set(read))


def test_the_closure_follows_every_form_of_import_and_no_type_checking_one(tree):
    growth = tree / "pipelines" / "growth"
    (growth / "deep").mkdir()
    (growth / "deep" / "__init__.py").write_text("from . import beside\nfrom .. import formula\n")
    (growth / "deep" / "beside.py").write_text("from ..unrelated import VALUE\n")
    (growth / "typed.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import pipelines.growth.training\nelse:\n    import pipelines.growth.spec\n"
        "import typing\nif typing.TYPE_CHECKING:\n    import pipelines.growth.verbs\n"
        "def late():\n    import pipelines.growth.deep as d, os\n"
    )
    found = load_identity(tree).import_closure(("pipelines.growth.typed",))
    stage = {name.removeprefix("pipelines.growth.") for name in found if name.startswith("pipelines.growth.")}
    assert stage == {"typed", "spec", "deep", "deep.beside", "formula", "unrelated"}


def test_a_key_depends_on_each_of_its_parts_and_on_no_order(tree):
    identity = load_identity(tree)

    def key(stage="growth", verb="train", spec=None, inputs=None) -> str:
        spec = {"method": {"name": "stack"}, "seed": 0} if spec is None else spec
        inputs = {"base": "k1", "tokens": "k2"} if inputs is None else inputs
        return identity.job_key(stage, verb, GROW, spec, inputs)

    assert key() == key(spec={"seed": 0, "method": {"name": "stack"}}, inputs={"tokens": "k2", "base": "k1"})
    others = [
        key(),
        key(verb="other"),
        key(spec={"method": {"name": "stack"}, "seed": 1}),
        key(spec={"method": {"name": "scratch"}, "seed": 0}),
        key(inputs={"base": "k1", "tokens": "k3"}),
        key(inputs={"base": "k1"}),
        key(inputs={"base": ["k1", "k2"]}),
        key(inputs={"base": ["k2", "k1"]}),
    ]
    assert len(set(others)) == len(others)


def test_versions_count_and_a_missing_package_is_named(tree):
    identity = load_identity(tree)
    assert list(identity.versions(("pydantic", "numpy"))) == ["numpy", "pydantic"]
    assert "+" not in identity.versions(("torch",))["torch"], "a build for another device is the same version"
    with_numpy = Verb(help="", implementation=GROW.implementation, spec=Spec, packages=("numpy",))
    assert identity.job_key("growth", "train", with_numpy, {}, {}) != identity.job_key("growth", "train", GROW, {}, {})
    with pytest.raises(RetraceError, match="no-such-package is not installed"):
        identity.versions(("no-such-package",))


def test_an_input_counts_by_its_bytes_and_names_unless_a_job_made_it(tmp_path):
    from pipelines.runs.identity import input_key

    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("a")
    keys = [input_key(folder)]
    (folder / "sub" / "a.txt").rename(folder / "sub" / "b.txt")
    keys.append(input_key(folder))
    (folder / "sub" / "b.txt").write_text("b")
    keys.append(input_key(folder))
    assert len(set(keys)) == 3
    (folder / "run.json").write_text(json.dumps({"key": "made"}))
    assert input_key(folder) == "made"
    (folder / "run.json").write_text("{}")
    with pytest.raises(RetraceError, match="is not a run record"):
        input_key(folder)
    with pytest.raises(RetraceError, match="no such file or folder"):
        input_key(tmp_path / "absent")


def test_no_module_reads_a_data_file_that_the_digest_would_miss(root):
    """The digest follows imports; a template or table beside the code would change results unseen."""
    strays = [
        path
        for path in (root / "pipelines").rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts and path.name[0] != "."
    ]
    assert strays == []
