"""Opening a tokenizer folder, with `tokenizers` alone or as a Hugging Face class; nothing in it is executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.tokenizer.folder import read_tokenizer
from pipelines.tokenizer.spec import END_OF_DOCUMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from pipelines.tokenizer.expansion import ExpansionTable


class LoadedTokenizer:
    """Text to ids and back. The text ``<|endoftext|>`` is text here: only the caller ends a document.

    Attributes:
        vocab_size: ids a model sees, 0..vocab_size-1.
        num_tokens: tokens the encoder works with, scaffolds included.
        eod_id: the id that ends a document.
    """

    def __init__(self, encoder: Tokenizer, table: ExpansionTable | None) -> None:
        encoder.no_padding()
        encoder.no_truncation()
        encoder.encode_special_tokens = True
        self.encoder = encoder
        self.table = table
        self.num_tokens: int = encoder.get_vocab_size()
        self.vocab_size = self.num_tokens if table is None else table.num_visible
        self.eod_id: int = encoder.get_vocab()[END_OF_DOCUMENT]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without an end-of-document mark."""
        ids: list[int] = self._expand(np.array(self.encoder.encode(text).ids, dtype=np.int32)).tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Ids of every text, int32 [length] each, without end-of-document marks."""
        return [self._expand(ids) for ids in self.encode_batch_with_scaffolds(texts)]

    def encode_batch_with_scaffolds(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Ids before scaffolds are taken apart, over ``num_tokens`` tokens."""
        encoded = self.encoder.encode_batch_fast(list(texts))
        return [np.array(each.ids, dtype=np.int32) for each in encoded]

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        text: str = self.encoder.decode([int(each) for each in ids], skip_special_tokens=False)
        return text

    def _expand(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        return ids if self.table is None else self.table.expand(ids)


def load_tokenizer(path: Path | str) -> LoadedTokenizer:
    """Open a tokenizer folder without importing transformers.

    Raises:
        RetraceError: a file is missing, damaged or does not fit the others.
    """
    return LoadedTokenizer(*read_tokenizer(Path(path)))


def load_hf_tokenizer(path: Path | str) -> PreTrainedTokenizerFast:
    """Open a tokenizer folder as a Hugging Face tokenizer; the class is chosen here, never by the folder.

    Raises:
        RetraceError: a file is missing, damaged or does not fit the others.
    """
    _encoder, table = read_tokenizer(Path(path))
    # transformers takes seconds to import; most jobs never need it.
    if table is None:
        from transformers import PreTrainedTokenizerFast as tokenizer_class
    else:
        from pipelines.tokenizer.scaffold_tokenizer import ScaffoldTokenizer as tokenizer_class
    tokenizer: PreTrainedTokenizerFast = tokenizer_class.from_pretrained(str(path), local_files_only=True)
    return tokenizer
