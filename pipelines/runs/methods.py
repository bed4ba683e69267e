"""Methods of a stage: found by file name, described without importing them.

``pipelines/<stage>/methods/<name>.py`` holds exactly one frozen dataclass; its fields are the method's
hyper-parameters, and they are read from the syntax tree, so that a graph of a thousand jobs is planned
without loading torch once. Class variables ``requires`` (inputs the method cannot do without)
and ``axis`` (what a growth method grows) are read likewise.
"""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipelines.runs.errors import RetraceError

PIPELINES = Path(__file__).resolve().parents[1]

# Annotations a hyper-parameter may use: plain types, tuples of them, Literal and unions with None.
_ANNOTATIONS = {"int": int, "float": float, "str": str, "bool": bool, "None": NoneType}


@dataclass(frozen=True)
class Hyperparameter:
    """One field of a method: its type as written, and its default (``...`` when it has none)."""

    name: str
    annotation: str
    default: Any


@dataclass(frozen=True)
class MethodCard:
    """What is known of a method without importing it."""

    stage: str
    name: str
    class_name: str
    summary: str
    hyperparameters: dict[str, Hyperparameter]
    requires: tuple[str, ...]
    axis: str | None = None


def list_methods(stage: str) -> list[str]:
    """Names of the methods of a stage, from the file names alone."""
    folder = PIPELINES / stage / "methods"
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


@cache
def method_card(stage: str, name: str) -> MethodCard:
    """Read a method's card from its syntax tree.

    Raises:
        RetraceError: no such method, or its file does not hold exactly one frozen dataclass.
    """
    path = PIPELINES / stage / "methods" / f"{name}.py"
    if name not in list_methods(stage):
        known = ", ".join(list_methods(stage)) or "none yet"
        raise RetraceError(f"{stage} has no method {name!r}; known: {known} (a method is one file, {path})")
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and _is_frozen_dataclass(node)]
    if len(classes) != 1:
        raise RetraceError(f"{path} must hold exactly one @dataclass(frozen=True) class, found {len(classes)}")
    class_variables: dict[str, Any] = {"requires": (), "axis": None}
    hyperparameters = {}
    for node in classes[0].body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        annotation = ast.unparse(node.annotation)
        if annotation.removeprefix("typing.").startswith("ClassVar"):
            if node.target.id in class_variables and node.value is not None:
                class_variables[node.target.id] = ast.literal_eval(node.value)
            continue
        default = ... if node.value is None else _literal(node.value, f"{path}: {node.target.id}")
        hyperparameters[node.target.id] = Hyperparameter(node.target.id, annotation, default)
    summary = (ast.get_docstring(tree) or "").strip().split("\n")[0]
    requires, axis = tuple(class_variables["requires"]), class_variables["axis"]
    return MethodCard(stage, name, classes[0].name, summary, hyperparameters, requires, axis)


def resolve_method(stage: str, method: str | dict[str, Any], what: str | None = None) -> dict[str, Any]:
    """Spell a method out: ``{"name": ..., every hyper-parameter: value}``, typed and complete.

    Raises:
        RetraceError: unknown method, unknown or ill-typed hyper-parameter, or one that has no default.
    """
    values = {"name": method} if isinstance(method, str) else dict(method)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise RetraceError(f"{what or stage}: method needs a name; known: {', '.join(list_methods(stage))}")
    card = method_card(stage, name)
    what = what or f"{stage}.{name}"
    unknown = sorted(set(values) - set(card.hyperparameters))
    if unknown:
        known = ", ".join(card.hyperparameters) or "none"
        raise RetraceError(f"{what}: unknown hyper-parameter {', '.join(unknown)}; {name} takes: {known}")
    complete: dict[str, Any] = {"name": name}
    for each in card.hyperparameters.values():
        value = values.get(each.name, each.default)
        if value is ...:
            raise RetraceError(f"{what}.{each.name} is missing: give it a value in params.yaml")
        complete[each.name] = _typed(value, each.annotation, f"{what}.{each.name}")
    return complete


def load_method(stage: str, method: str | dict[str, Any]) -> Any:
    """Import a method's file and build its dataclass from a resolved or partial method."""
    complete = resolve_method(stage, method)
    name = complete.pop("name")
    module = importlib.import_module(f"pipelines.{stage}.methods.{name}")
    # A spec is JSON, which has lists only; the dataclass is frozen and wants tuples.
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in complete.items()}
    return getattr(module, method_card(stage, name).class_name)(**values)


def _literal(node: ast.expr, what: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise RetraceError(f"{what}: a default must be a literal, not {ast.unparse(node)}") from None


@cache
def _adapter(annotation: str) -> TypeAdapter[Any]:
    return TypeAdapter(_annotation_type(ast.parse(annotation, mode="eval").body), config=ConfigDict(strict=False))


def _typed(value: Any, annotation: str, what: str) -> Any:
    if isinstance(value, bool) and "bool" not in annotation:
        raise RetraceError(f"{what} must be {annotation}, got {value!r}")
    try:
        typed = _adapter(annotation).validate_python(value)
    except ValidationError:
        raise RetraceError(f"{what} must be {annotation}, got {value!r}") from None
    return list(typed) if isinstance(typed, tuple) else typed


def _annotation_type(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name) if name in _ANNOTATIONS:
            return _ANNOTATIONS[name]
        case ast.Constant(value=None):
            return NoneType
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _annotation_type(left) | _annotation_type(right)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[element, ast.Constant(value=rest)])) if (
            rest is ...
        ):
            return tuple[_annotation_type(element), ...]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            from typing import Literal

            options = ast.literal_eval(choices)
            return Literal[options if isinstance(options, tuple) else (options,)]  # type: ignore[valid-type]
    raise RetraceError(
        f"hyper-parameter type {ast.unparse(node)!r} is not one of int, float, str, bool, tuple, Literal"
    )


def _is_frozen_dataclass(node: ast.ClassDef) -> bool:
    return any(
        isinstance(each, ast.Call)
        and ast.unparse(each.func) in ("dataclass", "dataclasses.dataclass")
        and any(k.arg == "frozen" and ast.literal_eval(k.value) is True for k in each.keywords)
        for each in node.decorator_list
    )
