"""Making `AutoTokenizer` know our class once both it and this package are imported, whichever comes first."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

AUTO = "transformers.models.auto.tokenization_auto"


class _Watcher:
    """Finds no module itself; sees the import of `AutoTokenizer` go by, and registers the class behind it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register(module)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_tokenizer() -> None:
    """Register now if transformers has loaded `AutoTokenizer`, else when it does; loads nothing by itself."""
    if AUTO in sys.modules:
        _register(sys.modules[AUTO])
    else:
        sys.meta_path.insert(0, _Watcher())


def _register(auto: ModuleType) -> None:
    # By name: neither this module nor the package depends on what it loads.
    for module, name in (("scaffold_tokenizer", "ScaffoldTokenizer"), ("picky_tokenizer", "PickyTokenizer")):
        found = importlib.import_module(f"pipelines.tokenizer.{module}")
        auto.REGISTERED_TOKENIZER_CLASSES[name] = getattr(found, name)
