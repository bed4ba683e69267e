"""``tokenizer encode`` and ``tokenizer decode``: a tokenizer at work on standard input."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.loading import load_tokenizer

_tokenizer_option = click.option(
    "--tokenizer", required=True, type=click.Path(path_type=Path), help="folder made by `tokenizer train`"
)


@click.command(help="Text on standard input to ids on standard output.")
@_tokenizer_option
@click.option("--tokens", is_flag=True, help="print the tokens themselves, one a line, instead of ids")
def encode(tokenizer: Path, tokens: bool) -> None:
    """Print the ids of standard input on one line."""
    loaded = load_tokenizer(tokenizer)
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as fault:
        raise RetraceError(f"standard input: byte {fault.start} is not UTF-8: convert it first") from None
    ids = loaded.encode(text)
    if tokens:
        for each in ids:
            print(loaded.encoder.id_to_token(each))
    else:
        print(*ids)


@click.command(help="Ids on standard input, parted by white space, to text on standard output.")
@_tokenizer_option
def decode(tokenizer: Path) -> None:
    """Print the text of the ids on standard input."""
    loaded = load_tokenizer(tokenizer)
    ids = []
    for word in sys.stdin.read().split():
        if not word.isdecimal() or int(word) >= loaded.vocab_size:
            raise RetraceError(f"standard input: {word!r} is not an id from 0 to {loaded.vocab_size - 1}")
        ids.append(int(word))
    sys.stdout.write(loaded.decode(ids))
