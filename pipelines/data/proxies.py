"""Labelled tasks derived from docstrings. They stand in for real ones where no data can be had, and are called proxies.

A module is in one split of every task, so no test text comes from a module that was trained on; classes are balanced;
a text that names its own package is left out, since the label could be read off it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines.data.docstrings import (
    Definition,
    definitions,
    list_modules,
    parse_module,
    parsing,
    stable_fraction,
    stable_order,
)
from pipelines.data.labelled import TASK_SPLITS, Example, LabelledTask
from pipelines.data.prose import normalised, prose_paragraphs
from pipelines.data.spec import PACKAGES, STANDARD_LIBRARY
from pipelines.runs.errors import RetraceError

MIN_WORDS, MAX_WORDS = 8, 60
VALIDATION_SHARE, TEST_SHARE = 0.15, 0.3


@dataclass(frozen=True)
class Described:
    """A module, class, function or method that a docstring describes."""

    package: str
    kind: str
    node: Definition


@dataclass(frozen=True)
class Proxy:
    """A question about a docstring, and the label that its code or its package gives (None: not asked of this one).

    Attributes:
        of_package: package -> label, where the package alone decides it; spares reading modules no one needs.
    """

    question: str
    labels: tuple[str, ...]
    of_definition: Callable[[Described], str | None] | None = None
    of_package: dict[str, str] | None = None

    def label(self, described: Described) -> str | None:
        """Label of a definition."""
        if self.of_package is not None:
            return self.of_package.get(described.package)
        assert self.of_definition is not None
        return self.of_definition(described)

    def labels_of(self, package: str) -> tuple[str, ...]:
        """Labels that a package's definitions may have."""
        if self.of_package is None:
            return self.labels
        return (self.of_package[package],) if package in self.of_package else ()


_TOPICS = {
    "mathematics": ("numpy", "scipy", "sympy", "networkx"),
    "learning": ("torch", "transformers", "scikit-learn", "peft", "accelerate"),
    "tables": ("pandas", "SQLAlchemy", "datasets"),
    "pictures": ("matplotlib", "pillow", "fonttools"),
    "services": ("mlflow", "huggingface_hub", "aiohttp"),
}
_TOPIC_OF_PACKAGE = {package: topic for topic, packages in _TOPICS.items() for package in packages}
_PACKAGE_LABELS = ("SQLAlchemy", "matplotlib", "pandas", "scipy", "transformers")


def _returns(described: Described) -> str | None:
    """Whether a function gives a value back; generators and empty bodies are not asked."""
    if not isinstance(described.node, ast.FunctionDef) or len(described.node.body) < 2:
        return None
    found = list(_own_nodes(described.node))
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in found):
        return None
    gives = any(isinstance(node, ast.Return) and node.value is not None for node in found)
    return "a value" if gives else "nothing"


def _arguments(described: Described) -> str | None:
    """Whether a function takes arguments beside ``self``."""
    if not isinstance(described.node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    arguments = described.node.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    taken = bool(arguments.vararg or arguments.kwarg or [name for name in names if name not in ("self", "cls")])
    return "with input" if taken else "without input"


PROXIES = {
    "topic": Proxy("What is this text about?", tuple(sorted(_TOPICS)), of_package=_TOPIC_OF_PACKAGE),
    "kind": Proxy(
        "What does this text describe?",
        ("class", "function"),
        # Few modules say what they are for, and finding them would mean reading all.
        of_definition=lambda each: {"class": "class", "function": "function", "method": "function"}.get(each.kind),
    ),
    "package": Proxy(
        "Which software does this text come from?",
        _PACKAGE_LABELS,
        of_package={package: package for package in _PACKAGE_LABELS},
    ),
    "returns": Proxy("What does this function give back?", ("a value", "nothing"), of_definition=_returns),
    "arguments": Proxy("How is this function called?", ("with input", "without input"), of_definition=_arguments),
    "origin": Proxy(
        "Where does this text come from?",
        ("installed package", "standard library"),
        of_package={**dict.fromkeys(PACKAGES, "installed package"), STANDARD_LIBRARY: "standard library"},
    ),
}


def proxy_tasks(
    names: tuple[str, ...], packages: tuple[str, ...], sizes: dict[str, int], seed: int
) -> list[LabelledTask]:
    """Read modules in a pseudo-random order until every task has its examples.

    Args:
        sizes: examples wanted for each split, over all labels; each label gets an equal share.

    Raises:
        RetraceError: an unknown task, or a label that the packages give too few examples of.
    """
    if unknown := [name for name in names if name not in PROXIES]:
        raise RetraceError(f"data.tasks: unknown task {unknown[0]!r}; embedded are: {', '.join(PROXIES)}")
    wanted = {
        (name, split, label): max(1, sizes[split] // len(PROXIES[name].labels))
        for name in names
        for split in TASK_SPLITS
        for label in PROXIES[name].labels
    }
    found: dict[tuple[str, str, str], list[Example]] = {key: [] for key in wanted}
    seen: set[str] = set()
    modules = sorted(list_modules(packages), key=lambda module: stable_order(module.name, f"tasks{seed}"))
    for module in modules:
        split = _split(module.name, seed)
        open_names = [
            name
            for name in names
            if any(
                len(found[name, split, label]) < wanted[name, split, label]
                for label in PROXIES[name].labels_of(module.domain)
            )
        ]
        if not open_names:
            continue
        with parsing():
            tree = parse_module(module.path)
        for kind, node in definitions(tree) if tree is not None else ():
            described = Described(module.domain, kind, node)
            labels = {name: PROXIES[name].label(described) for name in open_names}
            asked = {
                name: label
                for name, label in labels.items()
                if label is not None and len(found[name, split, label]) < wanted[name, split, label]
            }
            text = _text(described) if asked else ""
            if text and normalised(text) not in seen:
                seen.add(normalised(text))
                for name, label in asked.items():
                    found[name, split, label].append(Example(text, label))
    tasks = [_balanced(name, found, seed) for name in names]
    for task in tasks:
        task.check()
    return tasks


def _balanced(name: str, found: dict[tuple[str, str, str], list[Example]], seed: int) -> LabelledTask:
    proxy = PROXIES[name]
    splits = {}
    for split in TASK_SPLITS:
        fewest = min(proxy.labels, key=lambda label: len(found[name, split, label]))
        size = len(found[name, split, fewest])
        if not size:
            raise RetraceError(
                f"task {name}: the packages read give no {split} example of label {fewest!r}: "
                "add to data.packages, or leave the task out of data.tasks"
            )
        chosen = [example for label in proxy.labels for example in found[name, split, label][:size]]
        splits[split] = sorted(chosen, key=lambda example: stable_order(example.text, f"{name}{seed}"))
    files = dict.fromkeys(TASK_SPLITS, "embedded docstrings")
    return LabelledTask(name, proxy.labels, proxy.question, proxy=True, splits=splits, files=files)


def _text(described: Described) -> str:
    """The beginning of a docstring's prose, ``MIN_WORDS`` to ``MAX_WORDS`` words; empty when it names its package."""
    paragraphs = prose_paragraphs(ast.get_docstring(described.node, clean=False) or "")
    words = " ".join(paragraphs[:3]).split(" ")[:MAX_WORDS]
    text = " ".join(words) if len(words) >= MIN_WORDS else ""
    names = {described.package.casefold(), PACKAGES.get(described.package, described.package).casefold()}
    return "" if any(name in text.casefold() for name in names) else text


def _split(module: str, seed: int) -> str:
    fraction = stable_fraction(module, f"split{seed}")
    if fraction < TEST_SHARE:
        return "test"
    return "validation" if fraction < TEST_SHARE + VALIDATION_SHARE else "train"


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Every node of a function's body that is not inside a function or class of its own."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
