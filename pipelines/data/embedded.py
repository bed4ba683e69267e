"""The embedded corpus: real text that every machine with the pinned environment already has."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pipelines.data.corpus import Document
from pipelines.data.docstrings import definitions, list_modules, parse_module, parsing, stable_order
from pipelines.data.prose import normalised, prose_paragraphs
from pipelines.data.spec import STANDARD_LIBRARY

# Shorter leftovers of a module are headings and one-liners.
MIN_CHARACTERS = 200


def prose_documents(packages: tuple[str, ...], seed: int) -> Iterator[Document]:
    """One document a module: the prose of its docstrings, paragraphs parted by a blank line.

    Modules come in a pseudo-random order that depends on their names and the seed, so that any beginning is a fair
    sample of all packages. A paragraph that came before, anywhere, is not repeated.
    """
    seen: set[str] = set()
    modules = sorted(list_modules(packages), key=lambda module: stable_order(module.name, f"sample{seed}"))
    for module in modules:
        with parsing():
            tree = parse_module(module.path)
            paragraphs = []
            for _kind, node in definitions(tree) if tree is not None else ():
                for paragraph in prose_paragraphs(ast.get_docstring(node, clean=False) or ""):
                    key = normalised(paragraph)
                    if key not in seen:
                        seen.add(key)
                        paragraphs.append(paragraph)
            del tree
        text = "\n\n".join(paragraphs)
        if len(text) >= MIN_CHARACTERS:
            yield Document(text, module.name, module.domain)


def source_documents(seed: int) -> Iterator[Document]:
    """One document a module of the standard library: its source text as it stands."""
    modules = list_modules((STANDARD_LIBRARY,))
    for module in sorted(modules, key=lambda module: stable_order(module.name, f"sample{seed}")):
        try:
            text = module.path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            continue
        if len(text) >= MIN_CHARACTERS:
            yield Document(text + "\n", module.name, "python-source")
