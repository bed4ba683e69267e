"""``tokenizer scaffolds``: which tokens of an existing tokenizer would have been scaffolds on a text.

Scaffold-BPE hides a token that was a step to longer ones once it is rarer than the pair at the head of the queue, and
takes it back when the head has become as rare. The head's frequency falls all the time, so at the end the scaffolds are
the tokens that are part of a longer one and rarer than the head then is. Of a tokenizer that is there already the
merges are known, and their frequencies on any text follow from one pass of encoding: a token was *formed* as often as
it is used itself and in all tokens made of it. On the text a tokenizer was trained on, the merges' frequencies fall; on
another they scatter about a falling curve, and the end of the falling curve that fits them best (isotonic least
squares) stands for the head. A token never formed has left no trace and is counted apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.runs.errors import RetraceError
from pipelines.tokenizer.encoder import CompiledEncoder, compiled_encoder
from pipelines.tokenizer.folder import TOKENIZER
from pipelines.tokenizer.gathering import gather_words
from pipelines.tokenizer.patterns import pattern_of, pre_tokenizer_of
from pipelines.tokenizer.protocol import from_symbols
from pipelines.tokenizer.spec import CountSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from pipelines.runs.job import Job
    from pipelines.tokenizer.spec import ScaffoldsSpec
    from pipelines.tokenizer.words import Words

SCAFFOLDS = "scaffolds.jsonl"
# Words encoded at a time.
_BATCH = 100_000


class Merges(NamedTuple):
    """Merges of a tokenizer by their ids, [merges] int64 each, in order of rank."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    result: NDArray[np.int64]


def scaffolds(spec: ScaffoldsSpec, inputs: dict[str, Any], job: Job) -> dict[str, float | int | str]:
    """Write scaffolds.jsonl: a token a line with how often it was formed and left over, most often formed first.

    Raises:
        RetraceError: no BPE tokenizer, or no text.
    """
    tokenizer = read_existing(inputs["tokenizer"])
    model = json.loads(tokenizer.to_str())["model"]
    ids: dict[str, int] = model["vocab"]
    merges = _merges(model)
    # A pre-tokenizer that is none of ours is left to the library, which gets whole documents, of .txt files lines.
    counting = CountSpec.model_validate({"pattern": pattern_of(tokenizer) or "none", "text_field": spec.text_field})
    words = gather_words(counting, {name: inputs.get(name) for name in ("corpus", "input", "words")}, job)
    frequencies = token_frequencies(tokenizer, words, max(ids.values()) + 1, job)
    formed = times_formed(frequencies, merges, {index: len(token) for token, index in ids.items()})
    head = spec.head_frequency if spec.head_frequency is not None else end_of_falling_curve(formed[merges.result])
    children = np.unique(np.concatenate([merges.left, merges.right]))
    # What no merge makes is the alphabet, which is never hidden.
    children = children[np.isin(children, merges.result)]
    found = children[(frequencies[children] < head) & (formed[children] > 0)]
    _write(job.out / SCAFFOLDS, found, ids, merges, frequencies, formed)
    made = np.unique(merges.result)
    never = int((formed[made] == 0).sum())
    job.say(
        f"{len(found)} of {len(made)} merged tokens would have been scaffolds (fewer than {head:.3g} left over); "
        f"{never} more never came up"
    )
    return {
        "vocab_size": len(ids),
        "num_tokens": int(frequencies.sum()),
        "head_frequency": float(head),
        "num_scaffold_tokens": len(found),
        "scaffold_share": len(found) / len(ids),
        "never_formed_tokens": never,
        "median_visible_frequency": float(np.median(frequencies[np.setdiff1d(made, found)])),
        "median_scaffold_frequency": float(np.median(frequencies[found])) if len(found) else 0.0,
    }


def read_existing(path: Path) -> Tokenizer:
    """A BPE tokenizer: a folder or file tokenizer.json, or a folder with GPT-2's vocab.json and merges.txt.

    Raises:
        RetraceError: there is none, it is damaged or of another kind.
    """
    from tokenizers import Tokenizer, decoders, models

    file = path if path.is_file() else path / TOKENIZER
    try:
        if file.is_file():
            tokenizer = Tokenizer.from_file(str(file))
        else:
            file = path / "vocab.json"
            if not file.is_file() or not (path / "merges.txt").is_file():
                raise RetraceError(f"{path} has neither {TOKENIZER} nor vocab.json and merges.txt: give such a folder")
            tokenizer = Tokenizer(models.BPE.from_file(str(file), str(path / "merges.txt")))
            tokenizer.pre_tokenizer = pre_tokenizer_of("gpt2")
            tokenizer.decoder = decoders.ByteLevel()
    except Exception as broken:  # tokenizers raises bare Exception
        if isinstance(broken, RetraceError):
            raise
        raise RetraceError(f"{file} is damaged ({str(broken)[:120]}): fetch it again") from None
    if type(tokenizer.model).__name__ != "BPE":
        raise RetraceError(f"{file} is a {type(tokenizer.model).__name__}, which merges nothing: give a BPE tokenizer")
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_frequencies(tokenizer: Tokenizer, words: Words, num_ids: int, job: Job) -> NDArray[np.int64]:
    """Occurrences [num_ids] of every token in the words, encoded."""
    fast = compiled_encoder(tokenizer, None)
    # They are words already.
    whole = None if fast is None else CompiledEncoder(fast.vocabulary, "none")
    frequencies = np.zeros(num_ids, dtype=np.int64)
    items = [(word.decode(), count) for word, count in words.items()]
    with job.progress(len(items), "encode words", "word") as progress:
        for start in range(0, len(items), _BATCH):
            texts, counts = zip(*items[start : start + _BATCH], strict=True)
            if whole is not None:
                encoded = whole.encode_batch(texts)
            else:
                encoded = [np.array(each.ids, dtype=np.int32) for each in tokenizer.encode_batch_fast(list(texts))]
            weights = np.repeat(np.array(counts), [len(each) for each in encoded])
            np.add.at(frequencies, np.concatenate(encoded), weights)
            progress.advance(len(texts))
    return frequencies


def times_formed(frequencies: NDArray[np.int64], merges: Merges, lengths: dict[int, int]) -> NDArray[np.int64]:
    """How often each token was made on the way to the encoding: left over itself, or taken into longer ones.

    A token that several merges spell counts for the first of them.

    Args:
        lengths: id -> length of the token; a longer token is never part of a shorter one.
    """
    formed = frequencies.copy()
    first: dict[int, tuple[int, int]] = {}
    for left, right, result in zip(*(each.tolist() for each in merges), strict=True):
        first.setdefault(result, (left, right))
    for result in sorted(first, key=lambda index: -lengths[index]):
        for child in first[result]:
            formed[child] += formed[result]
    return formed


def end_of_falling_curve(values: NDArray[np.int64]) -> float:
    """The last value of the non-increasing sequence that fits best by least squares: the least mean of any tail."""
    tails = np.cumsum(values[::-1]) / np.arange(1, len(values) + 1)
    return float(tails.min())


def _merges(model: dict[str, Any]) -> Merges:
    ids = model["vocab"]
    prefix = model.get("continuing_subword_prefix") or ""
    rows = [(ids[a], ids[b], ids[a + b.removeprefix(prefix)]) for a, b in model["merges"]]
    return Merges(*np.array(rows, dtype=np.int64).reshape(-1, 3).T)


def _write(
    path: Path,
    found: NDArray[np.int64],
    ids: dict[str, int],
    merges: Merges,
    frequencies: NDArray[np.int64],
    formed: NDArray[np.int64],
) -> None:
    tokens = {index: token for token, index in ids.items()}
    ranks = {result: rank for rank, result in reversed(list(enumerate(merges.result.tolist())))}
    # What each scaffold mostly turned into.
    becomes: dict[int, int] = {}
    for left, right, result in zip(*(each.tolist() for each in merges), strict=True):
        for child in (left, right):
            if child not in becomes or formed[result] > formed[becomes[child]]:
                becomes[child] = result
    with path.open("w", encoding="utf-8") as file:
        for index in sorted(found.tolist(), key=lambda index: (-formed[index], index)):
            line = {
                "token": tokens[index],
                "text": from_symbols(tokens[index]).decode("utf-8", "replace"),
                "id": index,
                "rank": ranks[index],
                "frequency": int(frequencies[index]),
                "times_formed": int(formed[index]),
                "mostly_becomes": tokens[becomes[index]],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
