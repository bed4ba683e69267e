"""Requests the harness cannot score, refused by name before a forward pass."""

from __future__ import annotations

from typing import Any

from pipelines.runs.errors import RetraceError

TokenRequest = tuple[Any, list[int], list[int]]
"""((context, continuation) as text or None, context tokens, continuation tokens)."""


def count_truncated(requests: list[TokenRequest], max_length: int) -> int:
    """How many requests lose the left end of their context in ``max_length`` tokens.

    Raises:
        RetraceError: a continuation that does not fit by itself, or has no token of its own.
    """
    for text, _, continuation in requests:
        shown = f"{text[1]!r:.80}" if text else "a rolling window"
        if len(continuation) > max_length:
            raise RetraceError(
                f"a continuation has {len(continuation)} tokens and the model takes {max_length}: "
                f"raise max_length or leave its task out ({shown})"
            )
        if not continuation:
            raise RetraceError(f"the tokenizer merges a continuation into its context, no token is left ({shown})")
    return sum(len(context) + len(continuation) > max_length + 1 for _, context, continuation in requests)
