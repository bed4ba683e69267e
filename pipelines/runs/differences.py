"""What tells two jobs apart, in the words of params.yaml, of files and of packages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.runs.identity import method_name

# Where params.yaml says what a verb's spec says, when that is not the block of the stage.
BLOCKS = {
    ("data", "tasks"): "continual.tasks",
    ("tokenizer", "train"): "tokenizer.train",
    ("tokenizer", "measure"): "tokenizer.measure",
    # Keys of a paper's row.
    ("growth", "coalesce"): "cycle",
    ("growth", "decoalesce"): "cycle",
    ("growth", "interpolate"): "cycle",
    ("continual", "finetune"): "continual.finetune",
    ("translation", "pairs"): "translation.pairs",
    ("translation", "train"): "translation",
    ("evaluate", "run"): "evaluate.run",
    ("evaluate", "tasks"): "evaluate.tasks",
    ("forecast", "predict"): "forecast.predict",
    ("forecast", "positions"): "forecast.positions",
}
# A paper's cells follow from its rows, seeds and runs.
DERIVED = ("cells",)
# Named on one line; a comparison over months may find all of them changed.
MOST_FILES = 6


@dataclass(frozen=True)
class Input:
    """One thing that a job reads: its key, and its place as far as that is known."""

    key: str
    path: str | None


@dataclass(frozen=True)
class Parts:
    """What the key of a job is made of.

    Attributes:
        path: folder of the artifact, as far as it is known.
        inputs: option name -> what it names; several where the option is repeated.
        code: file of pipelines/ -> digest; None for a run that recorded only the digest of all.
    """

    key: str
    path: str | None
    stage: str
    verb: str
    spec: dict[str, Any]
    inputs: Mapping[str, tuple[Input, ...]]
    code: Mapping[str, str] | None
    code_digest: str
    versions: Mapping[str, str]


Change = Literal["changed", "added", "dropped"]


@dataclass(frozen=True)
class Difference:
    """One thing that differs.

    Attributes:
        name: the parameter, file or package, or the option of an input.
        path: of an input, as far as it is known.
        because: of an input that a job makes, what makes it differ in the end, however many jobs lie between.
    """

    kind: Literal["parameter", "code", "version", "input"]
    name: str
    change: Change = "changed"
    before: Any = None
    after: Any = None
    path: str | None = None
    because: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        if self.kind == "input":
            what = "differs" if self.change == "changed" else self.change
            why = describe(self.because)
            why = f" because ({why})" if len(self.because) > 1 else f" because {why}" if why else ""
            return f"input {self.name}: {self.path or 'of an unknown place'} {what}{why}"
        if self.kind == "code" or (self.before is self.after is None):
            return f"{self.name} {self.change}"
        if self.change == "changed":
            return f"{self.name} {_plain(self.before)} -> {_plain(self.after)}"
        value = self.after if self.change == "added" else self.before
        return f"{self.name} {self.change}" + ("" if isinstance(value, dict | list) else f" ({_plain(value)})")


Find = Callable[[str], Parts | None]
"""The parts of the job that a key belongs to, where anything is known of it."""


def describe(found: Sequence[Difference]) -> str:
    """All differences on one line; of many files the first few."""
    files = [each for each in found if each.kind == "code"]
    said = [str(each) for each in found if each not in files[MOST_FILES:]]
    if len(files) > MOST_FILES:
        said.insert(said.index(str(files[MOST_FILES - 1])) + 1, f"{len(files) - MOST_FILES} more files of pipelines/")
    return "; ".join(said)


class Comparison:
    """Comparisons of jobs and of what they were made from.

    Args:
        find: the parts of the job that a key belongs to, where anything is known of it.
    """

    def __init__(self, find: Callable[[str], Parts | None]) -> None:
        self._find = find
        self._reasons: dict[tuple[str, str], tuple[Difference, ...]] = {}

    def of(self, before: Parts, after: Parts) -> tuple[Difference, ...]:
        """Everything that makes the keys of two jobs of one verb differ; none if the keys are equal."""
        if before.key == after.key:
            return ()
        own = (*_parameters(before, after), *_code(before, after))
        return (*own, *_mappings("version", before.versions, after.versions), *self._inputs(before, after))

    def _inputs(self, before: Parts, after: Parts) -> Iterator[Difference]:
        for name in _union(before.inputs, after.inputs):
            old, new = before.inputs.get(name, ()), after.inputs.get(name, ())
            kept = {each.key for each in old} & {each.key for each in new}
            gone = [each for each in old if each.key not in kept]
            for each in new:
                if each.key in kept:
                    continue
                match = next((other for other in gone if other.path == each.path), None)
                if match is None and len(old) == len(new) == 1:
                    match = gone[0]
                if match is None:
                    yield Difference("input", name, "added", after=each.key, path=each.path)
                    continue
                gone.remove(match)
                because = self._why(match.key, each.key)
                yield Difference("input", name, "changed", match.key, each.key, each.path, because)
            for each in gone:
                yield Difference("input", name, "dropped", before=each.key, path=each.path)

    def _why(self, before: str, after: str) -> tuple[Difference, ...]:
        """What makes the jobs of two keys differ in the end; nothing where a job is not known."""
        if (before, after) not in self._reasons:
            old, new = self._find(before), self._find(after)
            same_verb = old is not None and new is not None and (old.stage, old.verb) == (new.stage, new.verb)
            found = self.of(old, new) if old and new and same_verb else ()
            roots = (root for each in found for root in (each.because or (each,)))
            # Each once, in the order met.
            self._reasons[before, after] = tuple({str(root): root for root in roots}.values())
        return self._reasons[before, after]


# Parameters


def _parameters(before: Parts, after: Parts) -> Iterator[Difference]:
    old, new = dict(before.spec), dict(after.spec)
    block = BLOCKS.get((after.stage, after.verb), after.stage)
    methods = method_name(old), method_name(new)
    if methods[0] != methods[1]:
        yield Difference("parameter", f"{after.stage}.method", "changed", *methods)
    elif isinstance(new.get("method"), dict):
        yield from _values(f"{after.stage}.{methods[1]}", old["method"], new["method"])
    if after.stage == "tables":
        block = f"papers/{new['paper']}/paper.yaml:" if "paper" in new else "papers:"
    old.pop("method", None)
    new.pop("method", None)
    yield from _values(block, old, new)


def _values(name: str, before: Any, after: Any) -> Iterator[Difference]:
    """Differences of two values that JSON can hold, by dotted key; lists of named things count as mappings."""
    old, new = _named(before), _named(after)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if before != after:
            yield Difference("parameter", name, "changed", before, after)
        return
    if isinstance(before, list) and set(old) == set(new) and list(old) != list(new):
        yield Difference("parameter", name, "changed", list(old), list(new))
    for key in _union(old, new):
        place = f"{name} {key}" if name.endswith(":") else f"{name}.{key}"
        if key in DERIVED or old.get(key) == new.get(key):
            continue
        if key not in old:
            yield Difference("parameter", place, "added", after=new[key])
        elif key not in new:
            yield Difference("parameter", place, "dropped", before=old[key])
        else:
            yield from _values(place, old[key], new[key])


def _named(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        names = [each.get("name", each.get("id")) for each in value]
        if None not in names and len(set(names)) == len(names):
            return dict(zip(names, value, strict=True))
    return value


# Code and packages


def _code(before: Parts, after: Parts) -> Iterator[Difference]:
    if before.code is None or after.code is None:
        if before.code_digest != after.code_digest:
            yield Difference("code", "code of pipelines/")
        return
    yield from _mappings("code", before.code, after.code)


def _mappings(
    kind: Literal["code", "version"], before: Mapping[str, str], after: Mapping[str, str]
) -> Iterator[Difference]:
    for name in _union(before, after):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        change: Change = "added" if old is None else "dropped" if new is None else "changed"
        # Digests say nothing to a person.
        yield Difference(kind, name, change, *(() if kind == "code" else (old, new)))


def _union(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [*after, *(key for key in before if key not in after)]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)
