"""Tokenizing a corpus to .bin and .idx, whole process, for corpora of several sizes: pace, growth and peak memory.

Runs alternate over the sizes; medians over rounds. Peaks are resident memory. ``seconds_a_megabyte_ratio`` is what a
megabyte more costs from the middle size to the largest, over what it costs from the smallest to the middle: 1 where
time is linear in the input, whatever the start takes. ``peak_ratio`` is the largest corpus's over the smallest's.

    python -m benchmarks.tokenizer_files [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.real_text import write_text
from benchmarks.tokenizer_encoding import VOCAB_SIZE, documents
from benchmarks.tokenizer_training import THREADS, Run, ours, run

MEGABYTES = (20, 60, 100)


def measure(scratch: Path, rounds: int = 5) -> dict[str, Any]:
    """All figures.

    Args:
        scratch: an empty folder for texts, corpora and tokens.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    text = write_text(scratch / "text.txt", max(MEGABYTES) * 10**6)
    corpora = {size: write_corpus(text, scratch / f"corpus_{size}", size * 10**6) for size in MEGABYTES}
    ours(write_text(text, 34 * 10**6), scratch, VOCAB_SIZE, "scaffold_bpe")
    tokenizer = (scratch / "ours").rename(scratch / "tokenizer")
    # What is to be compiled is there before anything counts.
    tokenize(corpora[min(MEGABYTES)], tokenizer, scratch)
    runs: dict[int, list[Run]] = {size: [] for size in MEGABYTES}
    for _ in range(rounds):
        for size in MEGABYTES:
            runs[size].append(tokenize(corpora[size], tokenizer, scratch))
    seconds = {size: statistics.median(each.seconds for each in runs[size]) for size in MEGABYTES}
    peaks = {size: max(each.peak_bytes for each in runs[size]) for size in MEGABYTES}
    small, middle, large = MEGABYTES
    more = (seconds[large] - seconds[middle]) / (large - middle), (seconds[middle] - seconds[small]) / (middle - small)
    figures: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "threads": THREADS}
    for size in MEGABYTES:
        figures[f"{size}_mb"] = {
            "seconds": seconds[size],
            "megabytes_a_second": size / seconds[size],
            "peak_mb": peaks[size] / 1e6,
        }
    figures["growth"] = {
        "megabytes_a_second_without_start": 1 / more[0],
        "seconds_a_megabyte_ratio": more[0] / more[1],
        "peak_ratio": peaks[large] / peaks[small],
    }
    return figures


def write_corpus(text: Path, out: Path, num_bytes: int) -> Path:
    """A corpus of the first bytes of a text."""
    out.mkdir()
    whole = text.read_bytes()[:num_bytes].decode(errors="ignore")
    found = documents(whole)
    for split, texts in (("train", found[1:]), ("validation", found[:1])):
        with (out / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for number, each in enumerate(texts):
                document = {"text": each, "id": f"{split}{number}", "domain": "text"}
                file.write(json.dumps(document, ensure_ascii=False) + "\n")
    return out


def tokenize(corpus: Path, tokenizer: Path, scratch: Path) -> Run:
    """`tokenizer tokenize` of this project."""
    out = scratch / "tokens"
    shutil.rmtree(out, ignore_errors=True)
    options = ["--corpus", str(corpus), "--tokenizer", str(tokenizer), "--out", str(out)]
    options += ["--exec", json.dumps({"threads": THREADS})]
    return run([sys.executable, "-m", "pipelines", "tokenizer", "tokenize", *options], {"RETRACE_STORE": "off"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrace-bench-") as scratch:
        print(json.dumps(measure(Path(scratch), arguments.rounds), indent=2))


if __name__ == "__main__":
    main()
