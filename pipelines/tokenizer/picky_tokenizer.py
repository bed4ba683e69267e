"""PickyBPE as a Hugging Face tokenizer; see ``scaffold_tokenizer``, of which it is a kind."""

from __future__ import annotations

from .picky_backend import PickyBackend, read_picky_backend
from .scaffold_tokenizer import ScaffoldTokenizer


class PickyTokenizer(ScaffoldTokenizer):
    """Tokenizer of N ids whose words are encoded by replaying merges and splits, in Python: exact, and not fast.

    Read without this class, as ``ScaffoldTokenizer`` describes it, it is plain BPE over all tokens that ever were, and
    does not agree with this class wherever a removed token would have been split.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json", "scaffold_file": "picky.json"}  # noqa: RUF012
    _tokenizer: PickyBackend
    _read_backend = staticmethod(read_picky_backend)

    def _encode_without_added_tokens(self, text: str) -> list[int]:
        words = [word for word, _span in self._tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        return [each for word in words for each in self._tokenizer.picky.encode_word(word)]
