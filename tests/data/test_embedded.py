"""The embedded corpus: read from source files, never imported, the same on every run."""

import json
import subprocess
import sys

import pytest

from pipelines.data.corpus import SPLITS, read_summary
from pipelines.data.docstrings import definitions, list_modules, parse_module
from pipelines.data.prose import normalised
from pipelines.runs.errors import RetraceError
from pipelines.runs.job import read_record

SPEC = {"packages": ["python", "networkx"], "max_bytes": 300_000, "validation_fraction": 0.2}


@pytest.fixture(scope="module")
def corpus(run_verb, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedded") / "corpus"
    run_verb("build", SPEC, out)
    return out


def test_two_builds_give_the_same_bytes(run_verb, corpus, tmp_path):
    run_verb("build", SPEC, tmp_path / "again")
    for name in ("train.jsonl", "validation.jsonl", "corpus.json", "metrics.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (corpus / name).read_bytes()


def test_counts_and_size_are_those_of_the_files(corpus, read_lines):
    summary = read_summary(corpus)
    total = 0
    for split in SPLITS:
        lines = read_lines(corpus / f"{split}.jsonl")
        size = sum(len(line["text"].encode()) for line in lines)
        assert summary["splits"][split] == {"num_documents": len(lines), "num_bytes": size}
        total += size
    assert sum(summary["domains"].values()) == total
    assert 290_000 < total <= 300_000


def test_modules_are_split_apart_and_every_paragraph_comes_once(corpus, read_lines):
    ids = {split: [line["id"] for line in read_lines(corpus / f"{split}.jsonl")] for split in SPLITS}
    assert len(set(ids["train"] + ids["validation"])) == len(ids["train"]) + len(ids["validation"])
    paragraphs = [p for s in SPLITS for line in read_lines(corpus / f"{s}.jsonl") for p in line["text"].split("\n\n")]
    assert len({normalised(p) for p in paragraphs}) == len(paragraphs) > 1000


def test_text_stands_in_the_docstrings_of_the_module_it_names(corpus, read_lines):
    import ast
    import inspect

    paths = {module.name: module.path for module in list_modules(("python", "networkx"))}
    for line in read_lines(corpus / "train.jsonl")[:20]:
        tree = parse_module(paths[line["id"]])
        docstrings = [ast.get_docstring(node) or "" for _, node in definitions(tree)]
        flat = normalised(" ".join(inspect.cleandoc(each) for each in docstrings))
        opening = normalised(" ".join(line["text"].split("\n\n")[0].split(" ")[:4]))
        assert opening in flat
        assert line["domain"] == ("networkx" if line["id"].startswith("networkx") else "python")


def test_another_seed_takes_other_modules_and_holds_out_others(run_verb, corpus, tmp_path, read_lines):
    run_verb("build", {**SPEC, "seed": 1}, tmp_path / "other")
    ids = [{line["id"] for line in read_lines(folder / "train.jsonl")} for folder in (corpus, tmp_path / "other")]
    assert ids[0] != ids[1]


def test_versions_of_what_is_read_are_part_of_the_identity(corpus):
    import platform
    from importlib.metadata import version

    expected = {"python": platform.python_version(), "networkx": version("networkx")}
    assert read_record(corpus)["spec"]["versions"] == expected
    assert read_summary(corpus)["versions"] == expected


def test_a_spec_of_another_environment_is_refused(run_verb, tmp_path):
    spec = {**SPEC, "versions": {"python": "3.11.7", "networkx": "1.0"}}
    with pytest.raises(RetraceError, match=r"versions\.networkx is 1\.0 but \d"):
        run_verb("build", {**spec, "packages": ["networkx"], "versions": {"networkx": "1.0"}}, tmp_path / "out")


def test_packages_outside_the_list_are_refused(run_verb, tmp_path):
    with pytest.raises(RetraceError, match=r"'left-pad' is not one of the packages known"):
        run_verb("build", {"packages": ["left-pad"]}, tmp_path / "out")


def test_the_second_domain_is_the_standard_librarys_source_as_it_stands(run_verb, tmp_path, read_lines):
    run_verb("build", {"domain": "source", "max_bytes": 200_000, "validation_fraction": 0.3}, tmp_path / "out")
    paths = {module.name: module.path for module in list_modules(("python",))}
    lines = read_lines(tmp_path / "out" / "train.jsonl")
    assert len(lines) > 2
    assert {line["domain"] for line in lines} == {"python-source"}
    for line in lines[:-1]:
        assert line["text"].strip() == paths[line["id"]].read_text(encoding="utf-8").strip()
    assert list(read_summary(tmp_path / "out")["versions"]) == ["python"]


def test_the_packages_read_are_never_imported(tmp_path):
    code = (
        "import sys; from pipelines.data.embedded import prose_documents;"
        "docs = [d for d, _ in zip(prose_documents(('networkx', 'sympy', 'scipy'), 0), range(20))];"
        "sys.exit(any(p in sys.modules for p in ('networkx', 'sympy', 'scipy', 'numpy')) or len(docs) != 20)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_definitions_are_named_by_kind_and_private_ones_left_out(tmp_path):
    path = tmp_path / "m.py"
    path.write_text(
        '"""M."""\ntry:\n  def f():\n    """F."""\n    def inner():\n      """I."""\nexcept E:\n  pass\n'
        'class C:\n  """C."""\n  async def g(self):\n    """G."""\n'
    )
    found = [(kind, getattr(node, "name", None)) for kind, node in definitions(parse_module(path))]
    assert found == [("module", None), ("function", "f"), ("class", "C"), ("method", "g")]


def test_a_file_that_is_no_python_is_passed_over(tmp_path):
    (tmp_path / "template.py").write_text("class {{ name }}: pass")
    (tmp_path / "null.py").write_bytes(b"a = 1\x00")
    assert parse_module(tmp_path / "template.py") is None
    assert parse_module(tmp_path / "null.py") is None


def test_corpus_spec_refuses_keys_of_another_source(run_verb, tmp_path):
    for spec, message in [
        ({"source": "local", "packages": ["numpy"]}, "packages means nothing for source local"),
        ({"source": "embedded", "name": "wikitext"}, "name means nothing for source embedded"),
        ({"source": "hub"}, "name is missing"),
        ({"source": "web"}, "source: Input should be 'embedded', 'local' or 'hub'"),
        ({"max_byte": 3}, "unknown key max_byte"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
    ]:
        with pytest.raises(RetraceError, match=message):
            run_verb("build", spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_complete_spec_is_accepted_again(corpus):
    from pipelines.data.spec import CorpusSpec

    for spec in (read_record(corpus)["spec"], json.loads(CorpusSpec(source="local").model_dump_json())):
        assert CorpusSpec.model_validate(spec).model_dump(mode="json") == spec
