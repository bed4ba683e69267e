"""One set of versions: what we ask for, the lock, the environments, the container, and what is installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(text: str) -> dict[str, str]:
    """Name -> version of every line that is a pin; any other line but a comment is a fault."""
    pins: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, separator, version = line.strip().partition("==")
            assert separator, f"not an exact pin: {line!r}"
            assert canonical(name) not in pins, f"pinned twice: {name}"
            pins[canonical(name)] = version
    return pins


@pytest.fixture(scope="session")
def lock(root: Path) -> dict[str, str]:
    return read_pins((root / "envs" / "requirements.lock").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def asked(root: Path) -> dict[str, str]:
    return read_pins((root / "envs" / "requirements.txt").read_text(encoding="utf-8"))


def conda_pins(path: Path) -> dict[str, str]:
    dependencies = yaml.safe_load(path.read_text(encoding="utf-8"))["dependencies"]
    (pip,) = [each["pip"] for each in dependencies if isinstance(each, dict)]
    return read_pins("\n".join(line for line in pip if not line.startswith("--")))


def test_what_we_ask_for_is_in_the_lock(asked, lock):
    assert asked.items() <= lock.items()


@pytest.mark.parametrize("name", ["cpu.yaml", "gpu.yaml"])
def test_a_conda_environment_is_what_we_ask_for_without_development_tools(root, asked, name):
    text = (root / "envs" / "requirements.txt").read_text(encoding="utf-8")
    needed, development = text.split("# development")
    assert conda_pins(root / "envs" / name) == read_pins(needed)
    assert "pytest" in development


def test_every_environment_has_the_same_python(root):
    for name in ("cpu.yaml", "gpu.yaml"):
        dependencies = yaml.safe_load((root / "envs" / name).read_text(encoding="utf-8"))["dependencies"]
        assert "python=3.11" in dependencies
    assert "python:3.11-slim" in (root / "envs" / "Containerfile").read_text(encoding="utf-8")
    assert sys.version_info[:2] == (3, 11)


def test_the_container_installs_the_lock_and_pins_nothing_of_its_own(root):
    recipe = (root / "envs" / "Containerfile").read_text(encoding="utf-8")
    assert "--requirement /opt/retrace/requirements.lock" in recipe
    assert re.findall(r"==[\d.]+", recipe) == []


def test_what_is_installed_is_the_lock(lock):
    installed = {name: metadata.version(name).partition("+")[0] for name in lock}
    assert installed == lock


def test_every_package_the_code_imports_is_asked_for_by_name(root, asked):
    """An import that only another package's dependencies satisfy breaks when they change their mind."""
    imported: set[str] = set()
    for folder in ("pipelines", "workflow", "benchmarks", "tests"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported.update(alias.name.split(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    imported.add(str(node.module).split(".")[0])
    ours = {"pipelines", "workflow", "benchmarks", "tests"} | {path.stem for path in (root / "tests").rglob("*.py")}
    imported -= set(sys.stdlib_module_names) | ours
    distributions = metadata.packages_distributions()
    unknown = {name for name in imported if name not in distributions}
    assert unknown == set(), "imported and not installed"
    missing = {name for name in imported if not any(canonical(each) in asked for each in distributions[name])}
    assert missing == set(), "imported and not in envs/requirements.txt"


def test_setup_says_what_is_missing_in_one_line(root, tmp_path):
    """No Python 3.11 in sight: the message names it and a remedy."""
    for tool in ("bash", "dirname", "grep", "env"):
        (tmp_path / tool).symlink_to(subprocess.check_output(["which", tool], text=True).strip())
    broken = tmp_path / "python3.11"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    script = (root / "envs" / "setup.sh").read_text(encoding="utf-8").replace("/usr/bin/python3.11", "")
    (tmp_path / "setup.sh").write_text(script)
    done = subprocess.run(
        ["bash", tmp_path / "setup.sh", tmp_path / "venv"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "error: no Python 3.11" in done.stderr
    assert "PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()
