"""Training from Python, on texts that are not in files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipelines.runs.errors import RetraceError
from pipelines.runs.lifecycle import validate_spec
from pipelines.runs.verb import job_verb
from pipelines.tokenizer.counting import count_blocks
from pipelines.tokenizer.folder import write_tokenizer
from pipelines.tokenizer.reading import InvalidText, text_blocks
from pipelines.tokenizer.spec import TokenizerSpec
from pipelines.tokenizer.train import learn_vocabulary

if TYPE_CHECKING:
    from pipelines.tokenizer.protocol import LearnedVocabulary


def train_from_iterator(
    texts: Iterable[str | bytes], out: Path | str, *, threads: int | None = None, **spec: Any
) -> LearnedVocabulary:
    """Learn a tokenizer from texts in memory, or streaming by, and write its folder.

    Args:
        texts: documents; bytes that are not UTF-8 are read as U+FFFD.
        out: a folder that is not there yet.
        threads: to count with; default: all cores. The result is the same.
        **spec: as ``tokenizer train --spec`` takes it: method, vocab_size, pattern, ...

    Raises:
        RetraceError: a wrong spec, or a folder that is there.
    """
    out = Path(out)
    if out.exists():
        raise RetraceError(f"{out} exists: remove it, or choose another folder")
    checked = cast(TokenizerSpec, validate_spec("tokenizer", job_verb("tokenizer", "train"), spec))
    words = count_blocks(text_blocks(texts, InvalidText()), checked.pattern, threads)
    learned = learn_vocabulary(words, checked)
    out.mkdir(parents=True)
    write_tokenizer(out, learned, checked.special_tokens, checked.pattern)
    return learned
