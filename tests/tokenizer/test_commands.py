"""``tokenizer encode``, ``decode`` and ``export`` from the shell."""

import os
import subprocess
import sys

import pytest

from pipelines.tokenizer.loading import load_tokenizer

TEXT = "hello wörld\n\n  two <|endoftext|>\n".encode()


@pytest.fixture(scope="module")
def folders(root, trained, tmp_path_factory):
    """Folders of every kind that these commands take."""
    exported = tmp_path_factory.mktemp("exported") / "tiktoken"
    done = call(root, "export", b"", trained("scaffold_bpe"), "--out", str(exported))
    assert done.returncode == 0, done.stderr
    return {method: trained(method) for method in ("bpe", "scaffold_bpe", "picky_bpe")} | {"tiktoken": exported}


def call(root, verb, text, folder, *options):
    command = [sys.executable, "-m", "pipelines", "tokenizer", verb, "--tokenizer", str(folder), *options]
    return subprocess.run(command, input=text, capture_output=True, cwd=root, env={**os.environ, "PYTHONUTF8": "1"})


@pytest.mark.parametrize("kind", ["bpe", "scaffold_bpe", "picky_bpe", "tiktoken"])
@pytest.mark.parametrize("data", [TEXT, b"", b"a\xff\xe6\xbc b"])
def test_decoding_what_was_encoded_gives_every_byte_back(root, folders, kind, data):
    encoded = call(root, "encode", data, folders[kind])
    assert call(root, "decode", encoded.stdout, folders[kind]).stdout == data
    assert (b"not all UTF-8" in encoded.stderr) == (b"\xff" in data)


def test_ids_of_an_exported_tokenizer_are_those_of_its_source(root, folders):
    assert (
        call(root, "encode", TEXT, folders["tiktoken"]).stdout
        == call(root, "encode", TEXT, folders["scaffold_bpe"]).stdout
    )


def test_tokens_offsets_and_lines(root, folders):
    folder = folders["scaffold_bpe"]
    loaded = load_tokenizer(folder)
    tokens = call(root, "encode", b"hello\n", folder, "--tokens").stdout.decode().split()
    assert "".join(tokens) == "helloĊ"
    rows = [row.split("\t") for row in call(root, "encode", TEXT, folder, "--offsets").stdout.decode().splitlines()]
    assert [int(row[0]) for row in rows] == loaded.encode(TEXT.decode())
    assert [int(row[1]) for row in rows[1:]] == [int(row[2]) for row in rows[:-1]]
    assert [TEXT[int(start) : int(end)] for _id, start, end, _text in rows] == [
        loaded.token_bytes[int(row[0])] for row in rows
    ]
    lines = call(root, "encode", TEXT, folder, "--lines").stdout.decode().splitlines()
    assert [loaded.decode(map(int, line.split())) for line in lines] == TEXT.decode().splitlines()


def test_what_cannot_be_done_is_said_in_one_line(root, folders, tmp_path):
    folder = folders["scaffold_bpe"]
    bad = call(root, "decode", b"3 1024", folder)
    assert (bad.returncode, bad.stderr) == (2, b"error: standard input: '1024' is not an id from 0 to 1023\n")
    assert call(root, "encode", b"", folder, "--lines", "--tokens").returncode == 2
    assert b"tokenizer.json is missing" in call(root, "encode", b"", tmp_path).stderr
