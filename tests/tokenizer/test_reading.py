"""Reading text: blocks hold the words of the whole, and what is no text is counted, never lost in silence."""

from __future__ import annotations

import gzip
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer import reading
from pipelines.tokenizer.counting import count_blocks
from pipelines.tokenizer.patterns import PATTERNS
from pipelines.tokenizer.reading import InvalidText, file_blocks, list_sources, text_blocks


def blocks_of(*files, pattern="gpt2", text_field="text", invalid=None):
    return list(file_blocks(files, pattern, text_field, invalid or InvalidText(), lambda read: None))


def texts_of(blocks):
    texts = []
    for block in blocks:
        start = 0
        for end in block.ends.tolist():
            texts.append(block.letters[start:end].tobytes())
            start = end
    return texts


def counted(blocks, pattern="gpt2"):
    return dict(count_blocks(blocks, pattern, 1).items())


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 16)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_file_read_in_blocks_has_the_words_of_the_whole(tmp_path, small_blocks, pattern):
    path = tmp_path / "text.txt"

    @settings(max_examples=200, deadline=None)
    @given(st.one_of(st.text(max_size=200), st.text("ab' 1\n.é漢", max_size=200)))
    def holds(text):
        text = text.encode(errors="ignore").decode()
        path.write_bytes(text.encode())
        whole = [text.removeprefix("\ufeff")]
        if pattern == "none":
            lines = whole[0].split("\n")
            whole = [*(line + "\n" for line in lines[:-1]), lines[-1]]
        assert counted(blocks_of(path, pattern=pattern), pattern) == counted(text_blocks(whole, InvalidText()), pattern)

    holds()


def test_blocks_are_small_and_cut_at_words(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("some words here\n" * 200_000, encoding="utf-8")
    blocks = blocks_of(path)
    assert len(blocks) > 5
    assert max(len(block.letters) for block in blocks) <= 2 * reading.BLOCK_BYTES
    assert b"".join(texts_of(blocks)) == path.read_bytes()


def test_an_endless_word_is_read_whole_in_linear_time(tmp_path):
    seconds = []
    for size in (1 << 20, 1 << 24):
        path = tmp_path / "endless.txt"
        path.write_bytes(b"x" * size)
        started = time.process_time()
        [text] = texts_of(blocks_of(path))
        seconds.append(time.process_time() - started)
        assert len(text) == size
    assert seconds[1] < 64 * max(seconds[0], 0.01)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=6), st.text(max_size=4).map(lambda text: text.encode(errors="ignore")))))
def test_bytes_that_are_not_utf_8_are_read_as_python_replaces_them_and_counted(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("bytes") / "text.txt"
    path.write_bytes(b"".join(parts))
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for block_bytes in (1, 4, 1 << 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reading, "BLOCK_BYTES", block_bytes)
            invalid = InvalidText()
            read = b"".join(texts_of(blocks_of(path, invalid=invalid)))
        assert read.decode() == data.decode(errors="replace")
        genuine = data.count("\ufffd".encode())
        assert invalid.num_sequences == data.decode(errors="replace").count("\ufffd") - genuine
        assert invalid.first == (str(path) if invalid.num_sequences else "")


def test_texts_in_memory_may_be_bytes_or_hold_half_a_surrogate_pair():
    invalid = InvalidText()
    assert texts_of(text_blocks(["é", b"\xff\xc3\xa9", "a\ud83db", ""], invalid)) == [
        "é".encode(),
        "\ufffdé".encode(),
        "a\ufffdb".encode(),
        b"",
    ]
    assert (invalid.num_sequences, invalid.first) == (2, "the texts")


def test_json_lines_are_texts_and_packed_files_are_unpacked(tmp_path):
    lines = [json.dumps({"text": "one\n", "id": 1}), "", json.dumps({"text": "é"}, ensure_ascii=False)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'\xef\xbb\xbf{"text": "three"}'))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"four\nfive"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.txt").write_bytes(b"\xef\xbb\xbfsix")
    (tmp_path / "e.md").write_text("not asked for", encoding="utf-8")
    files = list_sources([tmp_path])
    assert [path.name for path in files] == ["a.jsonl", "b.jsonl.gz", "c.txt.gz", "d.txt"]
    assert texts_of(blocks_of(*files)) == [b"one\n", "é".encode(), b"three", b"four", b"\nfive", b"six"]
    # A file that is named is read whatever its name.
    assert b"".join(texts_of(blocks_of(*list_sources([tmp_path / "e.md"])))) == b"not asked for"


def test_reading_tells_how_far_it_is(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"word " * 300_000)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000))
    told = []
    files = list_sources([tmp_path])
    for _block in file_blocks(files, "gpt2", "text", InvalidText(), told.append):
        pass
    assert sum(told) == sum(path.stat().st_size for path in files)
    assert max(told) <= 2 * reading.BLOCK_BYTES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text":\n', r"a\.jsonl:2 is not JSON"),
        ("a.jsonl", b'{"body": "x"}\n', r"a\.jsonl:1 has no text in field 'text' \(there is: body\).*set text_field"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1 has no text in field 'text' \(there is: a list\)"),
        ("a.txt.gz", gzip.compress(b"x" * 100, mtime=0)[:-9], r"a\.txt\.gz is damaged"),
        ("a.txt.gz", b"plain", r"a\.txt\.gz is damaged"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RetraceError, match=message):
        blocks_of(tmp_path / name)


def test_a_folder_without_text_is_named(tmp_path):
    with pytest.raises(RetraceError, match=r"holds no file named \.txt, \.txt\.gz, \.jsonl, \.jsonl\.gz"):
        list_sources([tmp_path])
