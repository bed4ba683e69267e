"""Identity, run records, errors, progress: what every stage stands on. Imports nothing heavy."""

from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import list_methods, load_method, method_card, resolve_method
from pipelines.runs.verb import Command, Execution, Spec, Verb

__all__ = [
    "Command",
    "Execution",
    "RetraceError",
    "Spec",
    "Verb",
    "list_methods",
    "load_method",
    "method_card",
    "resolve_method",
]
