"""Scaffold-BPE as a Hugging Face tokenizer.

A ``tokenizer.json`` cannot say that one token stands for several ids, so this class adds what it cannot say. The file
and those it imports are also copied into tokenizer folders, where ``trust_remote_code`` finds them; so they import
nothing of the package by its name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from .scaffold_backend import ScaffoldBackend, read_backend


class ScaffoldTokenizer(PreTrainedTokenizerFast):
    """Tokenizer of N ids over an encoder that also knows scaffolds.

    It does whatever `PreTrainedTokenizerFast` does, on the ids that a model sees: truncation, padding, overflow, pairs,
    offsets and words all follow the expansion of scaffolds. Tokens added to it get ids N, N + 1, ...

    A program with neither this class nor ``trust_remote_code`` has two ways to read the same folder. `AutoTokenizer`
    refuses, and names ``trust_remote_code=True``, unless a model's config.json lies beside the tokenizer. In that case,
    or with `PreTrainedTokenizerFast` or `tokenizers.Tokenizer` on ``tokenizer.json`` itself, scaffolds stay whole: the
    tokenizer has |E| ids instead of N, decodes exactly, agrees wherever no scaffold is left, and the ids it should not
    have made are those from N on, which a model's embedding of N rows refuses.

    Raises:
        ValueError: a file is damaged or does not fit the other; the message names it.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json", "scaffold_file": "scaffold.json"}  # noqa: RUF012
    # Saving copies this file and those it imports, and names the class in tokenizer_config.json.
    _auto_class = "AutoTokenizer"
    _read_backend = staticmethod(read_backend)

    def __init__(self, *args: Any, tokenizer_file: str, scaffold_file: str | None, **kwargs: Any) -> None:
        if scaffold_file is None:
            missing = Path(tokenizer_file).with_name(self.vocab_files_names["scaffold_file"])
            raise ValueError(f"{missing} is missing: train the tokenizer again")
        # Before the base class, which would make a deep copy of a backend given to it.
        self._tokenizer: ScaffoldBackend = self._read_backend(Path(tokenizer_file), Path(scaffold_file))
        self._scaffold_text = Path(scaffold_file).read_text(encoding="utf-8")
        super().__init__(*args, **kwargs)

    @classmethod
    def _from_pretrained(cls, resolved_vocab_files: dict[str, Any], *args: Any, **kwargs: Any) -> ScaffoldTokenizer:
        file = resolved_vocab_files.get("tokenizer_file")
        if file is None:
            raise ValueError(f"{args[0]} has no tokenizer.json: make a tokenizer with `tokenizer train`")
        try:
            return super()._from_pretrained(resolved_vocab_files, *args, **kwargs)
        except (json.JSONDecodeError, UnicodeDecodeError) as broken:
            raise ValueError(f"{file} is damaged ({broken}): train the tokenizer again") from None

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Leave tokenizer.json as it is: the base class would rebuild a bare encoder for a class with ``__init__``."""
        return kwargs

    def train_new_from_iterator(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refused: the base class would train plain BPE under this class's name."""
        raise NotImplementedError("train such a tokenizer with `python -m pipelines tokenizer train`")

    def _encode_without_added_tokens(self, text: str) -> list[int]:
        ids = np.array(super()._encode_without_added_tokens(text), dtype=np.int64)
        expanded: list[int] = self._tokenizer.table.expand(ids).tolist()
        return expanded

    def _save_pretrained(
        self,
        save_directory: Any,
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        saved: tuple[str, ...] = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        name = self.vocab_files_names["scaffold_file"]
        path = Path(save_directory) / f"{filename_prefix + '-' if filename_prefix else ''}{name}"
        path.write_text(self._scaffold_text, encoding="utf-8")
        return (*saved, str(path))
