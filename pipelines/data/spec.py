"""Typed specs of the data stage. Imports nothing heavy."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata
from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.runs.verb import Spec

STANDARD_LIBRARY = "python"

# Distribution -> the package it installs. Pinned by the lock, and written about at length.
PACKAGES = {
    "accelerate": "accelerate",
    "aiohttp": "aiohttp",
    "datasets": "datasets",
    "docutils": "docutils",
    "fonttools": "fontTools",
    "huggingface_hub": "huggingface_hub",
    "matplotlib": "matplotlib",
    "mlflow": "mlflow",
    "networkx": "networkx",
    "nltk": "nltk",
    "numpy": "numpy",
    "pandas": "pandas",
    "peft": "peft",
    "pillow": "PIL",
    "pydantic": "pydantic",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "snakemake": "snakemake",
    "SQLAlchemy": "sqlalchemy",
    "sympy": "sympy",
    "torch": "torch",
    "transformers": "transformers",
}
DEFAULT_PACKAGES = (STANDARD_LIBRARY, *PACKAGES)

# Keys that mean something for some sources only; elsewhere they are refused, not ignored.
_KEYS_OF_SOURCE = {
    "embedded": {"domain", "packages", "versions"},
    "local": {"text_field"},
    "hub": {"name", "config", "revision", "split", "text_field"},
}


class CorpusSpec(Spec):
    """What text a corpus is made of."""

    source: Literal["embedded", "local", "hub"] = Field("embedded", description="where the text comes from")
    domain: Literal["prose", "source"] = Field(
        "prose", description="embedded: docstring prose of the packages, or the standard library's own source"
    )
    packages: tuple[str, ...] = Field(DEFAULT_PACKAGES, description="embedded prose: the packages read")
    versions: dict[str, str] = Field({}, description="embedded: filled in with the versions of what is read")
    text_field: str = Field("text", min_length=1, description="local and hub: the field that holds the text")
    name: str | None = Field(None, description="hub: data set name, or a local folder that `datasets` loads")
    config: str | None = Field(None, description="hub: configuration of the data set")
    revision: str | None = Field(None, description="hub: commit, tag or branch; pin a commit to fix the bytes")
    split: str = Field("train", description="hub: split to read")
    max_bytes: int | None = Field(None, ge=1, description="UTF-8 bytes of text to stop at; default: all")
    validation_fraction: float = Field(0.05, gt=0, lt=1, description="share of modules or documents held out")
    seed: int = Field(0, description="which modules or files come first and which are held out")

    @model_validator(mode="before")
    @classmethod
    def _of_source(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        source = values.get("source", "embedded")
        if source not in _KEYS_OF_SOURCE:
            return values
        foreign = set().union(*_KEYS_OF_SOURCE.values()) - _KEYS_OF_SOURCE[source]
        for key in sorted(foreign & set(values)):
            # A complete spec spells out the defaults of every key.
            if values[key] not in (cls.model_fields[key].default, _listed(cls.model_fields[key].default)):
                raise ValueError(f"{key} means nothing for source {source}: leave it out")
        if source == "hub" and not values.get("name"):
            raise ValueError("name is missing: source hub needs the name of a data set")
        if source == "embedded":
            return _with_versions(values)
        return values


class TasksSpec(Spec):
    """Which labelled tasks, and how many examples of each."""

    source: Literal["embedded", "local"] = Field("embedded", description="derived proxies, or a folder of real tasks")
    tasks: tuple[str, ...] | None = Field(None, min_length=1, description="tasks in order; default: all there are")
    packages: tuple[str, ...] = Field(DEFAULT_PACKAGES, description="embedded: the packages read")
    versions: dict[str, str] = Field({}, description="embedded: filled in with the versions of what is read")
    draw: int = Field(42, description="local few-shot folders: which of the published draws")
    max_train: int = Field(400, ge=1, description="examples to train on, over all labels")
    max_validation: int = Field(100, ge=1)
    max_test: int = Field(200, ge=1)
    seed: int = Field(0, description="which modules or examples are taken and which are held out")

    @model_validator(mode="before")
    @classmethod
    def _of_source(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("source", "embedded") == "embedded":
            return _with_versions(values)
        return values


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _with_versions(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in the versions of the packages read, so that another environment is another job."""
    packages = values.get("packages", DEFAULT_PACKAGES)
    if values.get("domain") == "source":
        packages = (STANDARD_LIBRARY,)
    if not isinstance(packages, list | tuple) or not packages:
        raise ValueError(f"packages must list some of {', '.join(DEFAULT_PACKAGES)}")
    if unknown := [name for name in packages if name not in DEFAULT_PACKAGES]:
        raise ValueError(f"packages: {unknown[0]!r} is not one of the packages known: {', '.join(DEFAULT_PACKAGES)}")
    installed = {name: _version(name) for name in packages}
    given = values.get("versions")
    if given and given != installed:
        name = next(n for n in sorted({*given, *installed}) if given.get(n) != installed.get(n))
        raise ValueError(
            f"versions.{name} is {given.get(name)} but {installed.get(name)} is read here: "
            "leave versions out, or run `make setup` in the environment that the spec names"
        )
    return {**values, "versions": installed}


@cache
def _version(package: str) -> str:
    if package == STANDARD_LIBRARY:
        return platform.python_version()
    try:
        # Builds of one version (torch 2.13.0+cpu, +cu130) differ in binaries, not in docstrings.
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        raise ValueError(f"package {package} is not installed: run `make setup`, or leave it out of packages") from None
