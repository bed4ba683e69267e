"""Functions as machine code: right, kept, never stale, and loaded without numba."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.tokenizer.compiled import Bytes, Int64s, compiled, spread

SOURCE = """
from __future__ import annotations
import sys
import numpy as np
from pipelines.tokenizer.compiled import Int64s, compiled, inlined

@inlined
def square(value: int) -> int:
    return value * value

@compiled
def sum_of_squares(values: Int64s, size: int) -> int:
    total = 0
    for place in range(size):
        total += square(values[place])
    return total

print(sum_of_squares(np.arange(5), 5), "numba" in sys.modules, "llvmlite" in sys.modules)
"""

# Filling memory becomes a call of the C library, which machine code alone cannot find.
WITH_A_CALL = SOURCE.replace("    total = 0", "    for place in range(size):\n        values[place] = 0\n    total = 9")


@pytest.fixture(autouse=True)
def cache_of_this_test(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path, root):
    def run(source: str = SOURCE) -> tuple[str, str]:
        (tmp_path / "script.py").write_text(source, encoding="utf-8")
        command = [sys.executable, str(tmp_path / "script.py")]
        done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True, check=True)
        return done.stdout.strip(), done.stderr

    return run


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root)}


def objects(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_a_second_process_loads_the_machine_code_without_numba(run):
    first, said = run()
    assert (first, said) == ("30 True True", "compiling inner loops: some seconds, once on a machine\n")
    assert run() == ("30 False False", "")


def test_code_that_calls_something_is_loaded_by_llvm(run):
    assert run(WITH_A_CALL)[0] == "9 True True"
    assert run(WITH_A_CALL) == ("9 False True", "")


def test_changed_code_is_compiled_anew_also_in_a_function_that_is_called(run, tmp_path):
    run()
    changed, said = run(SOURCE.replace("value * value", "value * value + 1"))
    assert changed == "35 True True"
    assert "compiling" in said
    assert len(objects(tmp_path)) == 2


def test_a_changed_constant_of_another_module_is_compiled_anew(run, tmp_path):
    source = SOURCE.replace("import sys\n", "import sys\nfrom constants import OFFSET\n").replace(
        "value * value", "value * value + OFFSET"
    )
    for offset, result in ((1, "35"), (2, "40")):
        (tmp_path / "constants.py").write_text(f"OFFSET = {offset}\n", encoding="utf-8")
        assert run(source)[0] == f"{result} True True"


@pytest.mark.parametrize("damage", [b"", b"x" * 3000])
def test_a_damaged_file_is_compiled_anew_and_mended(run, tmp_path, damage):
    run()
    [path] = objects(tmp_path)
    path.write_bytes(path.read_bytes()[:100] + damage)
    assert run()[0] == "30 True True"
    assert run()[0] == "30 False False"


def test_a_folder_that_cannot_be_written_costs_a_warning_only(run, tmp_path):
    (tmp_path / "cache").write_text("a file in the way", encoding="utf-8")
    out, said = run()
    assert out == "30 True True"
    assert "warning: cannot keep compiled code" in said
    assert "set NUMBA_CACHE_DIR" in said


def tally(letters: Bytes, size: int, counts: Int64s) -> int:
    total = 0
    for place in range(size):
        counts[letters[place]] += 1
        total = spread(total + letters[place])
    return total


def test_machine_code_gives_what_python_gives_with_hashes_that_wrap_around():
    letters = np.frombuffer(b"machine code", dtype=np.uint8)
    counts = np.zeros(256, dtype=np.int64)
    total = 0
    for letter in letters.tolist():
        product = (total + letter) * 0x9E3779B97F4A7C15 % 2**64
        total = (product ^ (product >> 32)) >> 1
    assert compiled(tally)(letters, len(letters), counts) == total
    assert counts.tolist() == np.bincount(letters, minlength=256).tolist()


def test_arrays_of_another_type_or_with_gaps_are_refused():
    function = compiled(tally)
    letters = np.zeros(8, dtype=np.uint8)
    with pytest.raises(TypeError, match="Int64s is a contiguous array of int64, not one of int32"):
        function(letters, 8, np.zeros(256, dtype=np.int32))
    with pytest.raises(TypeError, match="contiguous"):
        function(letters[::2], 4, np.zeros(256, dtype=np.int64))


def allocates(letters: Bytes, size: int) -> int:
    return int(np.zeros(size).sum())


def test_a_function_that_needs_numba_when_it_runs_is_refused():
    with pytest.raises(NotImplementedError, match="allocates makes an object or raises"):
        compiled(allocates)(np.zeros(1, dtype=np.uint8), 1)
