"""The Python sources of the standard library and of installed packages, read by syntax tree and never imported."""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.util
import os
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.spec import PACKAGES, STANDARD_LIBRARY
from pipelines.runs.errors import RetraceError

# Tests say little in prose, and vendored copies belong to another package.
SKIPPED_FOLDERS = frozenset(
    ("test", "tests", "testing", "idle_test", "vendor", "_vendor", "vendored", "externals", "site-packages")
)

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name, the package (domain) it belongs to, and where it lies."""

    name: str
    domain: str
    path: Path


def list_modules(packages: tuple[str, ...]) -> list[Module]:
    """Every module of the named distributions (``python`` is the standard library), sorted by name.

    Raises:
        RetraceError: a distribution is not installed.
    """
    modules = []
    for package in packages:
        for root, prefix in _roots(package):
            paths = [root] if root.is_file() else _sources(root)
            modules += [Module(_dotted(path, root, prefix), package, path) for path in paths]
    return sorted(modules, key=lambda module: module.name)


def stable_order(name: str, salt: str) -> bytes:
    """A pseudo-random sort key of a name that is the same on every machine."""
    return hashlib.sha256(f"{salt}\0{name}".encode()).digest()


def stable_fraction(name: str, salt: str) -> float:
    """A pseudo-random number in [0, 1) from a name, the same on every machine."""
    return int.from_bytes(stable_order(name, salt)[:8], "big") / 2**64


def parse_module(path: Path) -> ast.Module | None:
    """The syntax tree of a file; None when it is not Python of this version (a template, say)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            return None


def definitions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """(kind, node) of the module and of every class, function and method in it, in source order.

    Kinds are ``module``, ``class``, ``function`` and ``method``; what is nested in a function is private to it
    and left out.
    """
    yield "module", tree
    yield from _nested(tree.body, "function")


@contextmanager
def parsing() -> Iterator[None]:
    """Switch the cycle collector off: trees are freed by reference count, and its passes cost six times the parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _nested(body: list[ast.stmt], function_kind: str) -> Iterator[tuple[str, Definition]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield "class", node
            yield from _nested(node.body, "method")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield function_kind, node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _nested(node.body, function_kind)
            yield from _nested(getattr(node, "orelse", []), function_kind)


def _roots(package: str) -> list[tuple[Path, str]]:
    if package == STANDARD_LIBRARY:
        return [(Path(sysconfig.get_path("stdlib")), "")]
    top_level = PACKAGES[package]
    found = importlib.util.find_spec(top_level)
    if found is None or not found.submodule_search_locations:
        raise RetraceError(f"package {package} is not installed: run `make setup`, or take it out of data.packages")
    return [(Path(location), top_level) for location in sorted(found.submodule_search_locations)]


def _sources(root: Path) -> list[Path]:
    sources = []
    for folder, folders, files in os.walk(root):
        folders[:] = [each for each in folders if each not in SKIPPED_FOLDERS]
        sources += [Path(folder) / name for name in files if name.endswith(".py")]
    return sources


def _dotted(path: Path, root: Path, prefix: str) -> str:
    parts = [*prefix.split("."), *path.relative_to(root).with_suffix("").parts]
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(part for part in parts if part) or prefix
