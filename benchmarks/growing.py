"""Growing a checkpoint of over 2 GB, made on the spot, against a plain copy of what it writes; and its certificate.

Growing and copying alternate; medians over rounds. Both read from and write to the page cache; a plain copy is
`cp` of the grown folder. Peaks are what resident memory rose by over that of the process when it had imported the
code; ``peak_tensors`` counts them in the largest tensor.

    python -m benchmarks.growing [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

SHAPE = {
    "num_layers": 10,
    "hidden_size": 2048,
    "ffn_hidden_size": 5632,
    "num_attention_heads": 16,
    "num_query_groups": 4,
    "seq_length": 2048,
    "untie_embeddings_and_output_weights": True,
}
VOCAB_SIZE = 32000
METHOD = {"name": "stack", "stacking_list": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 6, 7, 8, 9]}

# Growth by itself, timed inside: what starting Python and importing cost is not a matter of gigabytes.
GROW = """
import json, sys, time
from pathlib import Path
from pipelines.growth.grow import grow
from pipelines.growth.spec import GrowSpec
from pipelines.runs.job import Job
from pipelines.runs.verb import Execution
import pipelines.growth.certificate
def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
# Imported before anything counts; writing 5 then sets the peak back to what is resident now.
spec, source, out = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
out.mkdir()
job = Job(out, "bench", Execution())
Path("/proc/self/clear_refs").write_text("5")
before, began = kilobytes("VmRSS"), time.perf_counter()
grow(GrowSpec(**spec), {"input": source}, job)
seconds = time.perf_counter() - began
print(json.dumps([seconds, 1024 * (kilobytes("VmHWM") - before)]))
"""


def measure(scratch: Path, rounds: int = 3) -> dict[str, Any]:
    """All figures.

    Args:
        scratch: an empty folder; takes 10 GB.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    base, largest = make_checkpoint(scratch / "base")
    grown: list[float] = []
    copied: list[float] = []
    peaks: list[int] = []
    for _ in range(rounds):
        for folder in ("grown", "copied"):
            shutil.rmtree(scratch / folder, ignore_errors=True)
        seconds, peak = run({"method": METHOD, "certify": False}, base, scratch / "grown")
        grown.append(seconds)
        peaks.append(peak)
        copied.append(copy(scratch / "grown", scratch / "copied"))
    written = size_of(scratch / "grown") / 1e9
    for folder in ("grown", "copied"):
        shutil.rmtree(scratch / folder)
    seconds, peak = run({"method": METHOD, "certify": True}, base, scratch / "grown")
    shutil.rmtree(scratch / "grown")
    return {
        "base_gb": size_of(base) / 1e9,
        "written_gb": written,
        "gb_a_second": written / statistics.median(grown),
        "copy_gb_a_second": written / statistics.median(copied),
        "times_copy": statistics.median(grown) / statistics.median(copied),
        "peak_mb": max(peaks) / 1e6,
        "peak_tensors": max(peaks) / largest,
        "certificate": {"seconds": seconds - statistics.median(grown), "peak_mb": peak / 1e6},
    }


def make_checkpoint(folder: Path) -> tuple[Path, int]:
    """A checkpoint of random weights, and the bytes of its largest tensor."""
    import math

    import torch

    from pipelines.megatron.checkpoint import write_checkpoint
    from pipelines.megatron.flops import parameter_shapes
    from pipelines.megatron.spec import ModelSpec

    folder.mkdir()
    model = ModelSpec.model_validate(SHAPE)
    shapes = parameter_shapes(model, VOCAB_SIZE)
    generator = torch.Generator().manual_seed(0)
    config = {"model": model.model_dump(), "experts": None, "moe_method": None, "vocab_size": VOCAB_SIZE}
    pairs = ((name, 0.02 * torch.randn(shape, generator=generator)) for name, shape in shapes.items())
    write_checkpoint(folder, config, pairs)
    return folder, 4 * max(math.prod(shape) for shape in shapes.values())


def run(spec: dict[str, Any], base: Path, out: Path) -> tuple[float, int]:
    """Seconds and peak bytes of one growth."""
    command = [sys.executable, "-c", GROW, json.dumps(spec), str(base), str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def copy(source: Path, out: Path) -> float:
    """Seconds of a plain copy."""
    began = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(out)], check=True)
    return time.perf_counter() - began


def size_of(folder: Path) -> int:
    """Bytes of a folder's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(Path(scratch) / "growing", parser.parse_args().rounds), indent=2))


if __name__ == "__main__":
    main()
