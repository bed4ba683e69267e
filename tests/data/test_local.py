"""Folders of text and data sets of the Hub, with everything that can be wrong with them."""

import json

import pytest

from pipelines.data.corpus import read_documents, read_summary
from pipelines.data.local import folder_documents
from pipelines.runs.errors import RetraceError

LOCAL = {"source": "local", "validation_fraction": 0.3}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "texts"
    path.mkdir()
    return path


def build(run_verb, tmp_path, folder, **spec):
    return run_verb("build", {**LOCAL, **spec}, tmp_path / "corpus", folder=folder)


def write_lines(path, texts, field="text"):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")


def test_json_lines_become_documents_named_by_file_and_line(run_verb, tmp_path, folder):
    write_lines(folder / "sub" / "a.jsonl", [f"text {i}" for i in range(40)], field="body")
    final = build(run_verb, tmp_path, folder, text_field="body")
    documents = [d for split in ("train", "validation") for d in read_documents(tmp_path / "corpus", split)]
    assert {(d.id, d.text, d.domain) for d in documents} == {
        (f"sub/a.jsonl:{i + 1}", f"text {i}", "a") for i in range(40)
    }
    assert final["num_train_documents"] + final["num_validation_documents"] == 40


def test_a_book_is_cut_at_blank_lines_into_passages_and_nothing_is_lost(tmp_path, folder):
    paragraphs = [f"Paragraph {i} " + "word " * 150 for i in range(60)]
    (folder / "book.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    documents = list(folder_documents(folder, "text", 0))
    assert len(documents) == 5
    assert "\n\n".join(d.text for d in documents) == "\n\n".join(paragraphs)
    assert [d.id for d in documents] == [f"book.txt:{i}" for i in range(1, 6)]


def test_text_without_blank_lines_is_cut_at_the_end_of_a_line(folder):
    lines = [f"line {i} " + "word " * 20 + "\n" for i in range(1000)]
    (folder / "novel.txt").write_text("".join(lines))
    documents = list(folder_documents(folder, "text", 0))
    assert len(documents) == 6
    assert "".join(d.text + "\n" for d in documents) == "".join(lines)


def test_byte_order_marks_windows_line_ends_and_blank_lines_are_no_text(folder):
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (folder / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "three"}\r\n\r\n')
    assert sorted(d.text for d in folder_documents(folder, "text", 0)) == ["one\ntwo", "three"]


def test_max_bytes_stops_within_the_budget_at_a_paragraph(run_verb, tmp_path, folder):
    (folder / "a.txt").write_text("\n\n".join(f"Paragraph {i:04}." + " word" * 100 for i in range(500)))
    build(run_verb, tmp_path, folder, max_bytes=150_000)
    splits = read_summary(tmp_path / "corpus")["splits"]
    total = sum(split["num_bytes"] for split in splits.values())
    assert 149_000 < total <= 150_000
    last = list(read_documents(tmp_path / "corpus", "train")) + list(read_documents(tmp_path / "corpus", "validation"))
    assert all(d.text.endswith(" word") for d in last)


def test_what_is_held_out_depends_on_the_document_alone(run_verb, tmp_path, folder):
    write_lines(folder / "a.jsonl", [f"text {i}" for i in range(50)])
    build(run_verb, tmp_path, folder)
    held_out = {d.id for d in read_documents(tmp_path / "corpus", "validation")}
    write_lines(folder / "b.jsonl", [f"other {i}" for i in range(50)])
    run_verb("build", LOCAL, tmp_path / "more", folder=folder)
    assert {d.id for d in read_documents(tmp_path / "more", "validation") if d.id.startswith("a.")} == held_out


def test_real_folders_are_read(run_verb, tmp_path, shared_data):
    final = run_verb(
        "build", {**LOCAL, "max_bytes": 500_000}, tmp_path / "fiction", folder=shared_data / "text" / "fiction"
    )
    assert final["num_train_documents"] > 12


BAD = {
    "absent": (lambda f: f.rmdir(), "no such file or folder"),
    "empty": (lambda f: None, r"texts is empty: put \.txt or \.jsonl files into it"),
    "no text files": (lambda f: (f / "a.pdf").write_bytes(b"x"), r"has no \.txt or \.jsonl file: it holds a\.pdf"),
    "txt not UTF-8": (lambda f: (f / "a.txt").write_bytes(b"ab\ncd\xe9f\n"), r"a\.txt: byte 5 \(0xe9\) is not UTF-8"),
    "jsonl not UTF-8": (
        lambda f: (f / "a.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\xff"}\n'),
        r"a\.jsonl: byte 25 \(0xff\) is not UTF-8",
    ),
    "no field": (
        lambda f: (f / "a.jsonl").write_text('{"text": "ok"}\n{"body": 1, "title": "t"}\n'),
        r"a\.jsonl:2: no text in field 'text' \(there is: body, title\).*data\.text_field",
    ),
    "field no text": (lambda f: (f / "a.jsonl").write_text('{"text": 3}\n'), r"a\.jsonl:1: no text in field 'text'"),
    "no object": (lambda f: (f / "a.jsonl").write_text("[1]\n"), r"a\.jsonl:1: .*there is: a list"),
    "broken JSON": (
        lambda f: (f / "a.jsonl").write_text('{"text": "ok"}\n{"text": "o\n'),
        r"a\.jsonl:2: broken JSON \(Unterminated string.* at column 10\)",
    ),
    "half a surrogate": (lambda f: (f / "a.jsonl").write_text('{"text": "\\ud800"}\n'), r"a\.jsonl:1: .*surrogate"),
    "blank": (lambda f: (f / "a.txt").write_text(" \n\n"), "the train split is empty: 0 documents"),
    "too little to split": (
        lambda f: (f / "a.txt").write_text("one document"),
        r"the (train|validation) split is empty: 1 documents and validation_fraction 0\.3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_one_clear_line_and_leaves_nothing_behind(run_verb, tmp_path, folder, case):
    spoil, message = BAD[case]
    spoil(folder)
    with pytest.raises(RetraceError, match=message) as caught:
        build(run_verb, tmp_path, folder)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path.name != "texts"] == []


def test_the_folder_is_asked_for_and_refused_where_it_means_nothing(run_verb, tmp_path, folder):
    with pytest.raises(RetraceError, match="--folder is missing: source local"):
        run_verb("build", LOCAL, tmp_path / "out")
    with pytest.raises(RetraceError, match="--folder means nothing for source embedded"):
        run_verb("build", {}, tmp_path / "out", folder=folder)


class TestHub:
    """``datasets``, streamed, on a folder in the Hub's layout."""

    @pytest.fixture
    def data_set(self, tmp_path):
        write_lines(tmp_path / "set" / "train.jsonl", [f"row {i}" for i in range(30)] + [" "], field="body")
        return str(tmp_path / "set")

    def spec(self, name, **more):
        return {"source": "hub", "name": name, "text_field": "body", "validation_fraction": 0.3, **more}

    def test_rows_become_documents_in_order(self, run_verb, tmp_path, data_set):
        run_verb("build", self.spec(data_set), tmp_path / "corpus")
        documents = [d for split in ("train", "validation") for d in read_documents(tmp_path / "corpus", split)]
        assert {(d.id, d.text) for d in documents} == {(f"set:{i}", f"row {i}") for i in range(30)}

    def test_a_stream_is_read_no_further_than_max_bytes(self, run_verb, tmp_path, data_set):
        run_verb("build", self.spec(data_set, max_bytes=100), tmp_path / "corpus")
        splits = read_summary(tmp_path / "corpus")["splits"]
        assert 90 < sum(split["num_bytes"] for split in splits.values()) <= 100

    def test_a_missing_split_field_or_data_set_is_one_clear_line(self, run_verb, tmp_path, data_set):
        for spec, message in [
            (self.spec(data_set, split="test"), r"split 'test'.*Available splits: \['train'\]"),
            (self.spec(data_set, text_field="text"), r"row 0 has no text in field 'text' \(there is: body\)"),
            (self.spec(data_set, config="other"), "'other' not found"),
            (self.spec(str(tmp_path / "absent")), "could not be read .*absent"),
        ]:
            with pytest.raises(RetraceError, match=message) as caught:
                run_verb("build", spec, tmp_path / "corpus")
            assert "\n" not in str(caught.value)

    def test_without_a_network_the_hub_says_so(self, run_verb, tmp_path):
        import datasets

        assert datasets.config.HF_HUB_OFFLINE
        with pytest.raises(RetraceError, match=r"Couldn't reach 'nobody/nothing'.*source hub needs the internet"):
            run_verb("build", self.spec("nobody/nothing"), tmp_path / "corpus")
