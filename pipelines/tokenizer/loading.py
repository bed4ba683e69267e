"""Opening a tokenizer folder, with `tokenizers` alone or as a Hugging Face class; nothing in it is executed."""

from __future__ import annotations

from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.byte_tokenizer import ByteTokenizer
from pipelines.tokenizer.folder import read_picky_tokenizer, read_tokenizer
from pipelines.tokenizer.protocol import from_symbols
from pipelines.tokenizer.spec import END_OF_DOCUMENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from pipelines.tokenizer.encoder import CompiledEncoder
    from pipelines.tokenizer.expansion import ExpansionTable
    from pipelines.tokenizer.picky_encoding import PickyEncoder

# Characters from which on machine code is faster, with what it takes to load it.
COMPILED_FROM = 1_000_000
# Characters that the library encodes at a time: bounds memory, and is enough for it to share work among threads.
BATCH_CHARACTERS = 2_000_000


class LoadedTokenizer(ByteTokenizer):
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
        self.vocab_size = self.num_tokens - (0 if table is None else table.num_scaffolds)
        self.eod_id: int = encoder.get_vocab()[END_OF_DOCUMENT]
        # By whether scaffolds are taken apart; None where the tokenizer is of a kind that it does not know.
        self._compiled: dict[bool, CompiledEncoder | None] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without an end-of-document mark.

        Raises:
            UnicodeEncodeError: it holds half of a surrogate pair, which is no character.
        """
        text.encode()
        ids: list[int] = self._expand(np.array(self.encoder.encode(text).ids, dtype=np.int32)).tolist()
        return ids

    def encode_batch(self, texts: Iterable[str], num_threads: int | None = None) -> list[NDArray[np.int32]]:
        """Ids of every text, int32 [length] each, without end-of-document marks."""
        return list(self.encode_each(texts, num_threads))

    def encode_batch_with_scaffolds(
        self, texts: Iterable[str], num_threads: int | None = None
    ) -> list[NDArray[np.int32]]:
        """Ids before scaffolds are taken apart, over ``num_tokens`` tokens."""
        return list(self.encode_each(texts, num_threads, expanding=False))

    def encode_each(
        self, texts: Iterable[str], num_threads: int | None = None, *, expanding: bool = True
    ) -> Iterator[NDArray[np.int32]]:
        """Ids of one text after another, int32 [length]; memory does not grow with their number.

        Much text is encoded in machine code, with the same result, in ``num_threads`` threads (default: one a core).

        Args:
            expanding: take scaffolds apart.

        Raises:
            UnicodeEncodeError: a text holds half of a surrogate pair, which is no character.
        """
        texts = iter(texts)
        head: list[str] = []
        size = 0
        while size < COMPILED_FROM and (text := next(texts, None)) is not None:
            head.append(text)
            size += len(text)
        compiled = self._compiled_encoder(expanding) if size >= COMPILED_FROM else self._compiled.get(expanding)
        texts = chain(head, texts)
        if compiled is not None:
            yield from compiled.encode_each(texts, num_threads)
            return
        for batch in batches(texts):
            for text in batch:
                # The library refuses the same texts, but says of all of them that they are no text.
                text.encode()
            for each in self.encoder.encode_batch_fast(batch):
                ids = np.array(each.ids, dtype=np.int32)
                yield self._expand(ids) if expanding else ids

    def _compiled_encoder(self, expanding: bool) -> CompiledEncoder | None:
        if expanding not in self._compiled:
            from pipelines.tokenizer.encoder import compiled_encoder

            self._compiled[expanding] = compiled_encoder(self.encoder, self.table if expanding else None)
        return self._compiled[expanding]

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of every id a model sees."""
        special = {token.content for token in self.encoder.get_added_tokens_decoder().values()}
        hidden = range(0) if self.table is None else self.table.scaffold_ids
        tokens = [str(self.encoder.id_to_token(each)) for each in range(self.num_tokens) if each not in hidden]
        return [token.encode() if token in special else from_symbols(token) for token in tokens]

    def _expand(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        return ids if self.table is None else self.table.expand(ids)


class PickyLoaded(LoadedTokenizer):
    """A tokenizer whose words are encoded by replaying merges and splits; no batch is so long that it is compiled."""

    def __init__(self, encoder: Tokenizer, table: ExpansionTable, picky: PickyEncoder) -> None:
        super().__init__(encoder, table)
        self.picky = picky

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without an end-of-document mark."""
        words = self.encoder.pre_tokenizer.pre_tokenize_str(text)
        return [each for word, _span in words for each in self.picky.encode_word(word)]

    def encode_each(
        self, texts: Iterable[str], num_threads: int | None = None, *, expanding: bool = True
    ) -> Iterator[NDArray[np.int32]]:
        """Ids of one text after another, int32 [length]; a removed token is never there to be taken apart."""
        return (np.array(self.encode(text), dtype=np.int32) for text in texts)


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in groups of about ``BATCH_CHARACTERS``."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def load_tokenizer(path: Path | str) -> LoadedTokenizer:
    """Open a tokenizer folder without importing transformers.

    Raises:
        RetraceError: a file is missing, damaged or does not fit the others.
    """
    picky = read_picky_tokenizer(Path(path))
    return LoadedTokenizer(*read_tokenizer(Path(path))) if picky is None else PickyLoaded(*picky)


def load_hf_tokenizer(path: Path | str) -> PreTrainedTokenizerFast:
    """Open a tokenizer folder as a Hugging Face tokenizer; the class is chosen here, never by the folder.

    Raises:
        RetraceError: a file is missing, damaged or does not fit the others.
    """
    loaded = load_tokenizer(path)
    # transformers takes seconds to import; most jobs never need it.
    tokenizer_class: type[PreTrainedTokenizerFast]
    if isinstance(loaded, PickyLoaded):
        from pipelines.tokenizer.picky_tokenizer import PickyTokenizer

        tokenizer_class = PickyTokenizer
    elif loaded.table is not None:
        from pipelines.tokenizer.scaffold_tokenizer import ScaffoldTokenizer

        tokenizer_class = ScaffoldTokenizer
    else:
        import transformers

        tokenizer_class = transformers.PreTrainedTokenizerFast
    try:
        tokenizer: PreTrainedTokenizerFast = tokenizer_class.from_pretrained(str(path), local_files_only=True)
    except ValueError as broken:
        # Of the files that read_tokenizer does not read, the only ones left.
        raise RetraceError(
            f"{Path(path) / 'tokenizer_config.json'} or special_tokens_map.json is damaged ({broken}): "
            "train the tokenizer again"
        ) from None
    return tokenizer
