"""``tokenizer encode``, ``decode`` and ``export``: a tokenizer at work on standard input, and in tiktoken's files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.loading import load_tokenizer
from pipelines.tokenizer.tiktoken_files import SETTINGS, export_tiktoken, load_tiktoken

if TYPE_CHECKING:
    from pipelines.tokenizer.byte_tokenizer import ByteTokenizer

_tokenizer_option = click.option(
    "--tokenizer",
    required=True,
    type=click.Path(path_type=Path),
    help="folder made by `tokenizer train` or `tokenizer export`",
)


@click.command(help="Text on standard input to ids on standard output. What is not UTF-8 becomes ids of single bytes.")
@_tokenizer_option
@click.option("--tokens", is_flag=True, help="print the tokens themselves, in byte-level characters, one a line")
@click.option("--offsets", is_flag=True, help="print id, first byte, byte after the last, and text, tab-separated")
@click.option("--lines", is_flag=True, help="encode each line for itself, to one line of ids")
def encode(tokenizer: Path, tokens: bool, offsets: bool, lines: bool) -> None:
    """Print the ids of standard input."""
    if tokens + offsets + lines > 1:
        raise RetraceError("--tokens, --offsets and --lines are three ways to print: give one")
    loaded = _open(tokenizer)
    data = sys.stdin.buffer.read()
    if not _is_text(data):
        print("warning: standard input is not all UTF-8; such bytes become ids of single bytes", file=sys.stderr)
    if lines:
        for line in data.splitlines():
            print(*loaded.encode_bytes(line))
        return
    ids = loaded.encode_bytes(data)
    if tokens:
        sys.stdout.writelines(f"{loaded.token(each)}\n" for each in ids)
    elif offsets:
        end = 0
        for each in ids:
            start, end = end, end + len(loaded.token_bytes[each])
            text = json.dumps(data[start:end].decode("utf-8", "backslashreplace"), ensure_ascii=False)
            print(each, start, end, text, sep="\t")
    else:
        print(*ids)


@click.command(help="Ids on standard input, parted by white space, to text on standard output.")
@_tokenizer_option
def decode(tokenizer: Path) -> None:
    """Write the bytes of the ids on standard input."""
    loaded = _open(tokenizer)
    ids = []
    for word in sys.stdin.read().split():
        if not word.isdecimal() or int(word) >= loaded.vocab_size:
            raise RetraceError(f"standard input: {word!r} is not an id from 0 to {loaded.vocab_size - 1}")
        ids.append(int(word))
    sys.stdout.buffer.write(loaded.decode_bytes(ids))


@click.command(help="Write a tokenizer's files for tiktoken: ranks, pattern, special tokens, and ids of the ranks.")
@_tokenizer_option
@click.option("--out", required=True, type=click.Path(path_type=Path), help="folder to write them into")
def export(tokenizer: Path, out: Path) -> None:
    """Write tokenizer.tiktoken and tiktoken.json."""
    export_tiktoken(tokenizer, out)


def _open(folder: Path) -> ByteTokenizer:
    return load_tiktoken(folder) if (folder / SETTINGS).is_file() else load_tokenizer(folder)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
