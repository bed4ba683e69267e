"""Scaffold-BPE as a Hugging Face tokenizer: the Rust encoder over all tokens, then scaffolds taken apart.

A ``tokenizer.json`` cannot say that one token stands for several ids, so the expansion happens here, and truncation and
padding with it: Rust would apply them to the ids before expansion. To a model it is a tokenizer of N ids.
Importing this module makes ``AutoTokenizer.from_pretrained`` know the class, without code from the tokenizer's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import REGISTERED_TOKENIZER_CLASSES
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy

from pipelines.tokenizer.folder import SCAFFOLD, read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding


class ScaffoldTokenizer(PreTrainedTokenizerFast):
    """Tokenizer of N ids over an encoder of |E| tokens.

    Truncating a pair of texts is not supported; methods of the result that map to words or characters
    (``word_ids``, ``char_to_token``) are not either: use ``return_offsets_mapping``.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json", "scaffold_file": SCAFFOLD}  # noqa: RUF012

    def __init__(self, *args: Any, tokenizer_file: str, scaffold_file: str, **kwargs: Any) -> None:
        _encoder, table = read_tokenizer(Path(tokenizer_file).parent)
        assert table is not None, scaffold_file
        self.table = table
        self._scaffold_text = Path(scaffold_file).read_text(encoding="utf-8")
        super().__init__(*args, tokenizer_file=tokenizer_file, **kwargs)

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Leave tokenizer.json as it is: the base class would rebuild a bare encoder for a class with ``__init__``."""
        return kwargs

    @property
    def vocab_size(self) -> int:
        """Ids a model sees."""
        return self.table.num_visible

    def __len__(self) -> int:
        return self.table.num_visible

    def get_vocab(self) -> dict[str, int]:
        """Token -> id of the tokens a model sees."""
        return {token: i for token, i in super().get_vocab().items() if i < self.table.num_visible}

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """Tokens of a text after scaffolds are taken apart."""
        encoded: Any = self._encode_plus(text=text, text_pair=pair, add_special_tokens=add_special_tokens, **kwargs)
        tokens: list[str] = self.convert_ids_to_tokens(encoded["input_ids"])
        return tokens

    def _convert_token_to_id_with_added_voc(self, token: str) -> Any:
        index = super()._convert_token_to_id_with_added_voc(token)
        return index if index is not None and index < self.table.num_visible else self.unk_token_id

    def _add_tokens(self, new_tokens: list[Any], special_tokens: bool = False) -> int:
        if new := [str(token) for token in new_tokens if self._tokenizer.token_to_id(str(token)) is None]:
            raise ValueError(f"{new} would get ids among the scaffolds: give special_tokens when training")
        added: int = super()._add_tokens(new_tokens, special_tokens)
        return added

    def _convert_encoding(self, encoding: Encoding, **kwargs: Any) -> tuple[dict[str, Any], list[Encoding]]:
        """Every list of the encoding, repeated where a scaffold becomes several ids."""
        ids, source = self.table.expand_with_source(np.array(encoding.ids, dtype=np.int64))
        fields: dict[str, Any] = {
            "token_type_ids": encoding.type_ids,
            "attention_mask": encoding.attention_mask,
            "special_tokens_mask": encoding.special_tokens_mask,
            "offset_mapping": encoding.offsets,
        }
        expanded = {name: [[values[place] for place in source]] for name, values in fields.items()}
        return {"input_ids": [ids.tolist()], **expanded}, [encoding]

    def _encode_plus(  # type: ignore[override]
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        truncation_strategy: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool | None = None,
        **kwargs: Any,
    ) -> BatchEncoding:
        single = isinstance(text, str) or (is_split_into_words and (not text or isinstance(text[0], str)))
        truncate = truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE and max_length is not None
        has_pairs = text_pair is not None or (not single and any(isinstance(each, tuple) for each in text))
        if truncate and has_pairs:
            raise NotImplementedError("truncating a pair of texts: truncate each text before pairing")
        whole: Any = super()._encode_plus(
            [text] if single else text,
            None if text_pair is None else ([text_pair] if single else text_pair),
            add_special_tokens=add_special_tokens,
            is_split_into_words=is_split_into_words,
            split_special_tokens=split_special_tokens,
            verbose=False,
        )
        rows: list[dict[str, list[Any]]] = []
        origin: list[int] = []
        for index in range(len(whole["input_ids"])):
            row = {name: values[index] for name, values in whole.items()}
            parts = self._windows(row, max_length or 0, stride) if truncate else [row]
            rows += parts if return_overflowing_tokens else parts[:1]
            origin += [index] * (len(parts) if return_overflowing_tokens else 1)
        if not truncate:
            for row in rows:
                self._eventual_warn_about_too_long_sequence(row["input_ids"], max_length, verbose)
        wanted = {
            "token_type_ids": _default(return_token_type_ids, "token_type_ids" in self.model_input_names),
            "attention_mask": _default(return_attention_mask, "attention_mask" in self.model_input_names),
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
        }
        keep = ["input_ids", *(name for name, want in wanted.items() if want)]
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in keep}
        if padding_strategy != PaddingStrategy.DO_NOT_PAD:
            side = padding_side or self.padding_side
            self._pad_columns(columns, padding_strategy, max_length, pad_to_multiple_of, side)
        if return_length:
            columns["length"] = [len(ids) for ids in columns["input_ids"]]
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = origin
        elif single and return_tensors is None:
            columns = {name: values if name == "length" else values[0] for name, values in columns.items()}
        return BatchEncoding(columns, tensor_type=return_tensors)

    def _windows(self, row: dict[str, list[Any]], max_length: int, stride: int) -> list[dict[str, list[Any]]]:
        """A row cut to ``max_length``, the rest as further rows that overlap by ``stride``; specials stay on each."""
        special = row["special_tokens_mask"]
        length = len(special)
        if length <= max_length:
            return [row]
        front = next((i for i, mark in enumerate(special) if not mark), length)
        back = next((i for i, mark in enumerate(reversed(special)) if not mark), length - front)
        room = max_length - front - back
        if room <= stride:
            raise ValueError(f"max_length {max_length} has no room for {front + back} specials and stride {stride}")
        body = range(front, length - back)
        starts = list(range(0, max(len(body) - stride, 1), room - stride))
        if self.truncation_side == "right":
            windows = [body[start : start + room] for start in starts]
        else:
            windows = [body[max(len(body) - start - room, 0) : len(body) - start] for start in starts]
        ends = (list(range(front)), list(range(length - back, length)))
        return [
            {name: [values[i] for i in (*ends[0], *window, *ends[1])] for name, values in row.items()}
            for window in windows
        ]

    def _pad_columns(
        self,
        columns: dict[str, list[list[Any]]],
        strategy: PaddingStrategy,
        max_length: int | None,
        multiple: int | None,
        side: str,
    ) -> None:
        """Pad every list in place to one length."""
        longest = max((len(ids) for ids in columns["input_ids"]), default=0)
        target = max_length if strategy == PaddingStrategy.MAX_LENGTH and max_length is not None else longest
        if multiple:
            target = -(-target // multiple) * multiple
        fill: dict[str, Any] = {
            "input_ids": self.pad_token_id,
            "token_type_ids": self.pad_token_type_id,
            "attention_mask": 0,
            "special_tokens_mask": 1,
            "offset_mapping": (0, 0),
        }
        for name, rows in columns.items():
            for index, values in enumerate(rows):
                padding = [fill[name]] * (target - len(values))
                rows[index] = values + padding if side == "right" else padding + values

    def _save_pretrained(
        self, save_directory: Any, file_names: tuple[str, ...], *args: Any, **kwargs: Any
    ) -> tuple[str, ...]:
        saved: tuple[str, ...] = super()._save_pretrained(save_directory, file_names, *args, **kwargs)
        path = Path(save_directory) / SCAFFOLD
        path.write_text(self._scaffold_text, encoding="utf-8")
        return (*saved, str(path))


def _default(value: bool | None, default: bool) -> bool:
    return default if value is None else value


REGISTERED_TOKENIZER_CLASSES[ScaffoldTokenizer.__name__] = ScaffoldTokenizer
