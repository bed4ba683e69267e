"""What the README shows a tokenizer's user runs as it is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

COMMANDS_AT_MOST = 10


def test_the_quick_start_runs_as_shown(root, texts, tmp_path):
    section = (root / "README.md").read_text(encoding="utf-8").split("## A tokenizer of your own")[1].split("\n## ")[0]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block is not None
    assert len([line for line in block[1].splitlines() if line.strip()]) <= COMMANDS_AT_MOST
    (tmp_path / "my_texts").mkdir()
    (tmp_path / "my_texts" / "some.txt").write_text("\n".join(texts[:50]), encoding="utf-8")
    paths = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(root),
    }
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", block[1]],
        cwd=tmp_path,
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *tokens, printed = done.stdout.splitlines()
    assert "".join(tokens) == "theĠscaffoldingĠcomesĠdownĊ"
    assert re.fullmatch(r"\d+ \[2, \d+\] \['the scaffolding comes down', 'so it does'\]", printed), printed
