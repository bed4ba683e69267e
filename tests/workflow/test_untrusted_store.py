"""Whoever can write to the shared store can spoil results, but can neither run code nor write outside an artifact."""

from __future__ import annotations

import ast
import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.cache import FileEntry
from pipelines.runs.store import Record, tree_bytes
from tests.workflow.small_jobs import SmallJobs


@pytest.fixture
def jobs(checkout: Path, run_cli: Callable[..., Any]) -> SmallJobs:
    return SmallJobs(checkout, run_cli)


class Payload:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def forged(record: Record, files: tuple[FileEntry, ...]) -> Record:
    """A record as somebody would write who knows the format: all of its sums are right."""
    files = tuple(sorted(files, key=lambda each: each.relpath))
    tree = hashlib.md5(tree_bytes(files), usedforsecurity=False).hexdigest() + ".dir"
    return replace(record, files=files, tree=tree, size=sum(each.size for each in files))


def put_record(jobs: SmallJobs, record: Record) -> None:
    jobs.store.path(record.key).write_text(record.to_json(), encoding="utf-8")


@pytest.mark.parametrize("name", ["../../escaped", "{absolute}/escaped", "inner/../../../escaped", "..\\escaped"])
def test_a_record_whose_files_would_leave_the_artifact_is_refused_and_set_aside(
    jobs: SmallJobs, tmp_path: Path, name: str
) -> None:
    jobs.corpus("results/first")
    record = jobs.record("results/first")
    other = next(each for each in record.files if each.relpath == "train.jsonl")
    kept = tuple(each for each in record.files if each is not other)
    put_record(jobs, forged(record, (*kept, replace(other, relpath=name.format(absolute=tmp_path)))))
    said = jobs.corpus("results/again").stderr
    assert "refused" in said
    assert jobs.run_record("results/again")["provenance"] == "computed"
    assert jobs.content("results/again") == jobs.content("results/first")
    assert not list(tmp_path.rglob("*escaped*"))
    # What was computed took the forged record's place.
    assert [each.relpath for each in jobs.record("results/again").files] == [each.relpath for each in record.files]


@pytest.mark.slow
def test_nothing_that_comes_out_of_the_store_is_executed(jobs: SmallJobs, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    poison = {
        "pickle": pickle.dumps(Payload(marker)),
        "yaml": f'!!python/object/apply:os.mkdir ["{marker}"]'.encode(),
    }
    pickle.loads(poison["pickle"])
    marker.rmdir()  # It works where pickles are loaded.
    makers = {"corpus": jobs.corpus, "tokenizer": jobs.tokenizer, "tokens": jobs.tokens, "model": jobs.model}
    for make in makers.values():
        make()
    readers: dict[str, Callable[[], Any]] = {
        "corpus": lambda: jobs.tokenizer("results/read", check=False, env={"RETRACE_STORE": "off"}),
        "tokenizer": lambda: jobs.tokens("results/read", check=False, env={"RETRACE_STORE": "off"}),
        "tokens": lambda: jobs.model("results/read", check=False, env={"RETRACE_STORE": "off"}),
        "model": lambda: jobs.run("megatron", "inspect", "results/model", check=False),
    }
    for name, make in makers.items():
        record = jobs.record(f"results/{name}")
        for kind, payload in poison.items():
            source = tmp_path / kind
            source.write_bytes(payload)
            entry = jobs.store.cache.add(source)
            # All but run.json, which the store writes itself from the record.
            spoilt = [replace(entry, relpath=each.relpath) for each in record.files if each.relpath != "run.json"]
            run_json = next(each for each in record.files if each.relpath == "run.json")
            put_record(jobs, forged(record, (*spoilt, run_json)))
            make(f"results/{name}", overwrite=True)
            assert jobs.run_record(f"results/{name}")["provenance"] == "restored"
            assert payload in jobs.content(f"results/{name}").values()
            done = readers[name]()
            assert done.returncode != 0, f"{name} made of {kind} was read as if it were sound"
            assert not marker.exists(), f"{name}: a {kind} from the store was executed"
        put_record(jobs, record)
        make(f"results/{name}", overwrite=True)


def test_no_code_of_ours_reads_a_format_that_can_run_code(root: Path) -> None:
    found = [
        f"{path.relative_to(root)}:{node.lineno} {ast.unparse(node.func)}"
        for folder in ("pipelines", "workflow")
        for path in sorted((root / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _may_run_code(node)
    ]
    assert found == []


def _may_run_code(call: ast.Call) -> bool:
    """Whether a call loads a format that can carry code, without the option that forbids it."""
    name = ast.unparse(call.func)
    options = {each.arg: ast.unparse(each.value) for each in call.keywords if each.arg}
    if name.split(".")[0] in ("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle") or name in (
        "eval",
        "exec",
    ):
        return True
    if name == "torch.load":
        return options.get("weights_only") != "True"
    if name in ("yaml.load", "yaml.load_all"):
        return "Safe" not in options.get("Loader", "") and options.get("Loader") != "_UniqueKeys"
    if name in ("np.load", "numpy.load"):
        return options.get("allow_pickle", "False") != "False"
    return name in ("yaml.unsafe_load", "yaml.full_load") or options.get("trust_remote_code") == "True"
