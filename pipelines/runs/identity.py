"""Identity of a job: what was asked, of which inputs, by which code, with which versions.

``key = digest(stage, verb, spec, keys of the inputs, code digest, versions)``. An input made by another job
counts by that job's key, any other path by its content, so a whole graph's keys are known before anything runs.
Threads, devices, layouts, paths, hosts and times are not in it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.verb import Verb

ROOT = Path(__file__).resolve().parents[2]
RUN_RECORD = "run.json"


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def job_key(stage: str, verb: str, declared: Verb, spec: dict[str, Any], inputs: dict[str, Any]) -> str:
    """The key of a job.

    Args:
        spec: the validated spec, with every default spelled out.
        inputs: input name -> key (or list of keys) of what is read.
    """
    return digest(
        {
            "stage": stage,
            "verb": verb,
            "spec": spec,
            "inputs": inputs,
            "code": code_digest(stage, declared, method_name(spec)),
            "versions": versions(declared.packages),
        }
    )


def method_name(spec: dict[str, Any]) -> str | None:
    """The name of the spec's method, if the stage has methods."""
    method = spec.get("method")
    if isinstance(method, dict):
        return method.get("name")
    return method


def input_key(path: Path) -> str:
    """Key of an input: its maker's key if a run record lies in it, else the digest of its bytes."""
    record = path / RUN_RECORD
    if record.is_file():
        try:
            key: str = json.loads(record.read_text(encoding="utf-8"))["key"]
        except (ValueError, KeyError):
            raise RetraceError(f"{record} is not a run record: delete {path} and run its job again") from None
        return key
    return content_digest(path)


def content_digest(path: Path) -> str:
    """Digest of a file, or of every file under a folder with its relative name."""
    if path.is_file():
        return _file_digest(path)
    if not path.is_dir():
        raise RetraceError(f"no such file or folder: {path}")
    files = {str(each.relative_to(path)): _file_digest(each) for each in sorted(path.rglob("*")) if each.is_file()}
    return digest(files)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of the named distributions."""
    return {name: _version(name) for name in sorted(packages)}


@cache
def _version(name: str) -> str:
    try:
        # Without the local part: torch 2.13.0+cpu and 2.13.0+cu130 are one version on different machines.
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        raise RetraceError(f"package {name} is not installed: run `make setup`") from None


def code_digest(stage: str, declared: Verb, method: str | None) -> str:
    """Digest of the code a job runs: the static import closure of its verb and its method, inside pipelines/.

    Taken over syntax trees without docstrings, so comments and formatting change nothing.
    """
    return _code_digest(stage, declared.implementation, method)


def code_of_modules(stage: str, declared: Verb, method: str | None) -> dict[str, str]:
    """What the code digest is taken over: file of each module in the closure -> digest of its meaning."""
    return dict(_code_of_modules(stage, declared.implementation, method))


@cache
def _code_digest(stage: str, implementation: str, method: str | None) -> str:
    return digest(_code_of_modules(stage, implementation, method))


@cache
def _code_of_modules(stage: str, implementation: str, method: str | None) -> dict[str, str]:
    roots = [implementation.partition(":")[0]]
    if method is not None and (ROOT / "pipelines" / stage / "methods" / f"{method}.py").is_file():
        roots.append(f"pipelines.{stage}.methods.{method}")
    names = sorted(import_closure(tuple(roots)))
    return {_module_file(name): _read_module(name)[0] for name in names}


@cache
def import_closure(roots: tuple[str, ...]) -> frozenset[str]:
    """Modules of pipelines/ that the roots import, directly or not, type-checking imports left out."""
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in seen or _module_path(name) is None:
            continue
        seen.add(name)
        waiting.extend(_read_module(name)[1])
    return frozenset(seen)


def _module_path(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _module_file(name: str) -> str:
    """Where a module is, relative to the checkout."""
    path = _module_path(name)
    assert path is not None, name
    return path.relative_to(ROOT).as_posix()


@cache
def _read_module(name: str) -> tuple[str, frozenset[str]]:
    """Digest of a module's meaning, and the modules of pipelines/ it imports."""
    path = _module_path(name)
    assert path is not None, name
    imports: list[ast.Import | ast.ImportFrom] = []
    text = _meaning(ast.parse(path.read_text(encoding="utf-8"), str(path)), imports)
    found: set[str] = set()
    for node in imports:
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.Import):
            found.update(names)
        else:
            # `from package import module` names a module only if such a file exists.
            module = _imported_module(name, node)
            found.update([module, *(f"{module}.{each}" for each in names)])
    ours = frozenset(each for each in found if each.split(".")[0] == "pipelines" and _module_path(each))
    # Eight bytes a module: a run record has them all, and the key has the digest over them.
    return hashlib.sha256(text.encode()).hexdigest()[:16], ours


def _meaning(value: Any, imports: list[ast.Import | ast.ImportFrom]) -> str:
    """A syntax tree as text, without docstrings, bare strings, positions and what only type checkers import.

    One pass by hand: planning reads every module here, and ast.dump after a visitor took twice as long.
    """
    if isinstance(value, ast.AST):
        if isinstance(value, ast.Import | ast.ImportFrom):
            imports.append(value)
        # A context (load or store) follows from where the node stands.
        parts = [_meaning(getattr(value, each, None), imports) for each in value._fields if each != "ctx"]
        return f"{type(value).__name__}({','.join(parts)})"
    if isinstance(value, list):
        return f"[{','.join(_meaning(each, imports) for item in value for each in _live(item))}]"
    return repr(value)


def _live(node: Any) -> list[Any]:
    """What is left of one entry of a body: nothing of a bare string, the `else` of an `if TYPE_CHECKING`."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return []
    if isinstance(node, ast.If):
        test = node.test
        named = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else None
        if named == "TYPE_CHECKING":
            return node.orelse
    return [node]


def _imported_module(name: str, node: ast.ImportFrom) -> str:
    """Absolute name of what a `from` import reads, relative ones included."""
    if node.level == 0:
        return str(node.module)
    path = _module_path(name)
    assert path is not None, name
    up = node.level - (path.name == "__init__.py")
    package = name.split(".")[: -up or None]
    return ".".join([*package, node.module] if node.module else package)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
