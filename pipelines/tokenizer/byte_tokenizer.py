"""What every byte-level tokenizer can do once it encodes text and knows the bytes of its ids."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from pipelines.tokenizer.protocol import to_symbols


class ByteTokenizer(ABC):
    """Text, or any bytes, to ids and back.

    Attributes:
        vocab_size: ids a model sees, 0..vocab_size-1.
    """

    vocab_size: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text; what looks like a special token is text."""

    @property
    @abstractmethod
    def token_bytes(self) -> list[bytes]:
        """The bytes of every id a model sees."""

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: those of its text, and the ids of single bytes for what is not UTF-8."""
        ids: list[int] = []
        # Bytes that are not UTF-8 come as U+DC80 to U+DCFF, which no text holds.
        for part in re.split("([\udc80-\udcff]+)", data.decode("utf-8", "surrogateescape")):
            if part and "\udc80" <= part[0] <= "\udcff":
                ids += [self._byte_ids[byte] for byte in part.encode("utf-8", "surrogateescape")]
            elif part:
                ids += self.encode(part)
        return ids

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int] | NDArray[Any]) -> bytes:
        """Bytes of ids, exactly those that were encoded."""
        return b"".join([self.token_bytes[each] for each in ids])

    def token(self, index: int) -> str:
        """The token of an id in byte-level characters, as tokenizer.json has it."""
        return to_symbols(self.token_bytes[index])

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        return {token[0]: index for index, token in enumerate(self.token_bytes) if len(token) == 1}
