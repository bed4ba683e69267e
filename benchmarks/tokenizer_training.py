"""Training a tokenizer on a text file, whole process, against Hugging Face's `BpeTrainer` on the same file.

Both get two threads and the same settings, byte-level BPE with GPT-2's pattern, and write a tokenizer.json; runs
alternate, so that what else the machine does hits both alike; medians over rounds. Peaks are resident memory.

    python -m benchmarks.tokenizer_training [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real_text import ROOT, write_text

MEGABYTES = 34
GROWTH_MEGABYTES = (10, 34, 100)
VOCAB_SIZES = (8192, 32768)
THREADS = 2
THEIRS = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

text, out, vocab_size = sys.argv[1:]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
special = ["<|endoftext|>"]
trainer = trainers.BpeTrainer(
    vocab_size=int(vocab_size), special_tokens=special, initial_alphabet=alphabet, show_progress=False
)
tokenizer.train([text], trainer)
tokenizer.save(out)
"""

# A process's peak is never below that of the one that started it, so this one starts a small one that starts it.
STARTER = """
import json, os, sys, time

started = time.monotonic()
process = os.fork()
if not process:
    os.dup2(2, 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(process, 0)
seconds = time.monotonic() - started
cpu_seconds = usage.ru_utime + usage.ru_stime
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": usage.ru_maxrss * 1024}))
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


@dataclass(frozen=True)
class Run:
    """One finished process."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def run(command: list[str], environment: dict[str, str]) -> Run:
    """Run a process to its end; the kernel tells its time and its peak."""
    with tempfile.TemporaryFile() as said:
        starter = [sys.executable, "-I", "-S", "-c", STARTER, *command]
        done = subprocess.run(
            starter, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=said, text=True
        )
        if done.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{said.read().decode()}")
    return Run(**json.loads(done.stdout))


def ours(text: Path, scratch: Path, vocab_size: int, method: str = "bpe", cache: Path | None = None) -> Run:
    """`tokenizer train` of this project; with a cache of its own the machine code is made or found there."""
    out = scratch / "ours"
    shutil.rmtree(out, ignore_errors=True)
    spec = json.dumps({"method": method, "vocab_size": vocab_size})
    options = ["--spec", spec, "--exec", json.dumps({"threads": THREADS}), "--input", str(text), "--out", str(out)]
    environment = {"RETRACE_STORE": "off"} | ({} if cache is None else {"NUMBA_CACHE_DIR": str(cache)})
    return run([sys.executable, "-m", "pipelines", "tokenizer", "train", *options], environment)


def theirs(text: Path, scratch: Path, vocab_size: int) -> Run:
    """Hugging Face's trainer."""
    command = [sys.executable, "-c", THEIRS, str(text), str(scratch / "theirs.json"), str(vocab_size)]
    return run(command, {"RAYON_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "true"})


def compare(text: Path, scratch: Path, vocab_size: int, rounds: int) -> dict[str, float]:
    """Medians over alternating runs; ``times_faster`` is the median of the ratios of neighbours."""
    # On a fresh checkout this compiles, which takes time and memory of its own (``compile_cache``).
    ours(text, scratch, vocab_size)
    pairs = [(ours(text, scratch, vocab_size), theirs(text, scratch, vocab_size)) for _ in range(rounds)]
    median = statistics.median
    return {
        "seconds": median(a.seconds for a, _ in pairs),
        "hugging_face_seconds": median(b.seconds for _, b in pairs),
        "times_faster": median(b.seconds / a.seconds for a, b in pairs),
        "cpu_seconds": median(a.cpu_seconds for a, _ in pairs),
        "hugging_face_cpu_seconds": median(b.cpu_seconds for _, b in pairs),
        "times_less_cpu": median(b.cpu_seconds / a.cpu_seconds for a, b in pairs),
        "peak_mb": max(a.peak_bytes for a, _ in pairs) / 1e6,
        "hugging_face_peak_mb": max(b.peak_bytes for _, b in pairs) / 1e6,
        "peak_share": max(a.peak_bytes for a, _ in pairs) / max(b.peak_bytes for _, b in pairs),
    }


def measure(scratch: Path, rounds: int = 3) -> dict[str, Any]:
    """All figures.

    Args:
        scratch: an empty folder for texts and tokenizers.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    text = write_text(scratch / "text.txt", MEGABYTES * 10**6)
    figures: dict[str, Any] = {"megabytes": MEGABYTES, "threads": THREADS}
    # The first run with a cache of its own compiles, the second finds what the first left.
    cold, warm = (ours(text, scratch, VOCAB_SIZES[-1], cache=scratch / "cache") for _ in range(2))
    figures["compile_cache"] = {
        "cold_seconds": cold.seconds,
        "warm_seconds": warm.seconds,
        "cold_cpu_seconds": cold.cpu_seconds,
        "warm_cpu_seconds": warm.cpu_seconds,
        "cold_peak_mb": cold.peak_bytes / 1e6,
        "warm_peak_mb": warm.peak_bytes / 1e6,
    }
    for vocab_size in VOCAB_SIZES:
        figures[f"vocab_{vocab_size}"] = compare(text, scratch, vocab_size, rounds)
    for method in ("scaffold_bpe", "picky_bpe"):
        runs = [ours(text, scratch, VOCAB_SIZES[-1], method) for _ in range(rounds)]
        figures[method] = {
            "seconds": statistics.median(each.seconds for each in runs),
            "peak_mb": max(each.peak_bytes for each in runs) / 1e6,
        }
    growth = {}
    for megabytes in GROWTH_MEGABYTES:
        write_text(text, megabytes * 10**6)
        growth[f"{megabytes}_mb"] = compare(text, scratch, VOCAB_SIZES[-1], 1)
    figures["growth"] = growth
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="retrace-bench-") as scratch:
        print(json.dumps(measure(Path(scratch), arguments.rounds), indent=2))


if __name__ == "__main__":
    main()
