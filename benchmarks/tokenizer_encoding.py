"""Encoding batches on two cores, against Hugging Face's `encode_batch` and tiktoken's with the same merges.

Each gives what it gives: ours an array of ids a text, tiktoken a list, Hugging Face an object that knows offsets too
(``fast``: one that does not).

One process; every round has a text of its own, so that no cache holds what it is about to encode, and all encode it in
turn, each first in some round. Each vocabulary has 32,768 ids, learnt on all of the text. Figures are medians over
rounds of megabytes a second, and of ratios within a round. In the end all must give the same ids.

    python -m benchmarks.tokenizer_encoding [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.real_text import write_text
from benchmarks.tokenizer_training import THREADS, ours, run

VOCAB_SIZE = 32768
# Of text a round.
MEGABYTES = 7
DOCUMENT_BYTES = 3000


def documents(text: str, size: int = DOCUMENT_BYTES) -> list[str]:
    """Documents of about so many characters, cut at the ends of lines."""
    found, lines, length = [], [], 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        length += len(line)
        if length >= size:
            found.append("".join(lines))
            lines, length = [], 0
    return [*found, "".join(lines)] if lines else found


def measure(scratch: Path, rounds: int = 5) -> dict[str, Any]:
    """All figures, from a process of its own.

    Args:
        scratch: an empty folder for texts and tokenizers.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    text = write_text(scratch / "text.txt", rounds * MEGABYTES * 10**6)
    for method in ("bpe", "scaffold_bpe"):
        ours(text, scratch, VOCAB_SIZE, method)
        (scratch / "ours").rename(scratch / method)
    command = [sys.executable, "-m", "benchmarks.tokenizer_encoding", "--in", str(scratch), "--rounds", str(rounds)]
    run(command, {"RAYON_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "true"})
    figures: dict[str, Any] = json.loads((scratch / "figures.json").read_text(encoding="utf-8"))
    return figures


def encode(scratch: Path, rounds: int) -> dict[str, Any]:
    """All figures, in this process."""
    # Slow to import, and `measure` does without them.
    from tokenizers import Tokenizer

    from pipelines.tokenizer.loading import load_tokenizer
    from pipelines.tokenizer.tiktoken_files import export_tiktoken, load_tiktoken

    plain, scaffold = load_tokenizer(scratch / "bpe"), load_tokenizer(scratch / "scaffold_bpe")
    hugging_face = Tokenizer.from_file(str(scratch / "bpe" / "tokenizer.json"))
    # What looks like a special token is text to the others too.
    hugging_face.encode_special_tokens = True
    export_tiktoken(scratch / "bpe", scratch / "tiktoken")
    tiktoken = load_tiktoken(scratch / "tiktoken").encoding
    encoders: dict[str, Callable[[list[str]], Sequence[Any]]] = {
        "ours": lambda texts: plain.encode_batch(texts, THREADS),
        "scaffolds_whole": lambda texts: scaffold.encode_batch_with_scaffolds(texts, THREADS),
        "scaffolds_expanded": lambda texts: scaffold.encode_batch(texts, THREADS),
        "tiktoken": lambda texts: tiktoken.encode_ordinary_batch(texts, num_threads=THREADS),
        "hugging_face": hugging_face.encode_batch,
        "hugging_face_fast": hugging_face.encode_batch_fast,
    }
    whole = (scratch / "text.txt").read_text(encoding="utf-8")
    parts = [whole[len(whole) * part // rounds : len(whole) * (part + 1) // rounds] for part in range(rounds)]
    names = list(encoders)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for index, part in enumerate(parts):
        texts = documents(part)
        size = len(part.encode()) / 1e6
        for place in range(len(names)):
            name = names[(index + place) % len(names)]
            started = time.perf_counter()
            encoders[name](texts)
            speeds[name].append(size / (time.perf_counter() - started))

    check(documents(whole[:1_500_000]), encoders)

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(speeds[one], speeds[other], strict=True))

    return {
        "vocab_size": VOCAB_SIZE,
        "threads": THREADS,
        "rounds": rounds,
        "megabytes_a_round": MEGABYTES,
        "megabytes_a_second": {name: statistics.median(values) for name, values in speeds.items()},
        "times_hugging_face": ratio("scaffolds_expanded", "hugging_face"),
        "times_hugging_face_fast": ratio("scaffolds_expanded", "hugging_face_fast"),
        "times_tiktoken": ratio("scaffolds_expanded", "tiktoken"),
        "plain_times_hugging_face": ratio("ours", "hugging_face"),
        "plain_times_tiktoken": ratio("ours", "tiktoken"),
        "expansion_adds": ratio("scaffolds_whole", "scaffolds_expanded") - 1,
    }


def check(texts: list[str], encoders: dict[str, Callable[[list[str]], Sequence[Any]]]) -> None:
    """Raise unless the three that share their merges give the same ids; tiktoken's begin at the bytes."""
    for mine, other, rust in zip(
        *(encoders[name](texts) for name in ("ours", "tiktoken", "hugging_face")), strict=True
    ):
        if not mine.tolist() == rust.ids == [rank + 1 for rank in other]:
            raise ValueError(f"not the same ids: {rust.ids[:20]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in", dest="scratch", type=Path, help="a folder that measure() has prepared")
    arguments = parser.parse_args()
    if arguments.scratch is not None:
        figures = encode(arguments.scratch, arguments.rounds)
        (arguments.scratch / "figures.json").write_text(json.dumps(figures), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(prefix="retrace-bench-") as scratch:
        print(json.dumps(measure(Path(scratch), arguments.rounds), indent=2))


if __name__ == "__main__":
    main()
