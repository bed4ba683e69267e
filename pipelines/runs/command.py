"""The command line: stages and verbs as lazy click groups, so that help costs no imports."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from pipelines.runs.errors import RetraceError
from pipelines.runs.methods import list_methods, method_card
from pipelines.runs.verb import STAGES, Command, Execution, Verb, stage_verbs

STAGE_HELP = {
    "data": "corpora and labelled tasks",
    "tokenizer": "train tokenizers, tokenize corpora",
    "megatron": "checkpoints: inspect, export to Hugging Face",
    "pretrain": "train dense models from scratch",
    "growth": "grow small models into larger ones",
    "moe": "train mixture-of-experts models",
    "continual": "finetune on a sequence of tasks",
    "translation": "train translation models, score them",
    "evaluate": "score models with lm-evaluation-harness",
    "forecast": "forecast losses from early training",
    "tables": "paper tables, claims and plots",
    "runs": "run records, methods, MLflow mirror",
    "store": "finished artifacts: share, fetch, verify, collect",
}


class Stages(click.Group):
    """``python -m pipelines``: one group a stage."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(STAGES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return Verbs(name=name, help=STAGE_HELP[name].capitalize() + ".") if name in STAGES else None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Stages"):
            formatter.write_dl(list(STAGE_HELP.items()))


class Verbs(click.Group):
    """``python -m pipelines STAGE``: one command a verb."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(stage_verbs(str(self.name)))

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        declared = stage_verbs(str(self.name)).get(name)
        if declared is None:
            return None
        if isinstance(declared, Command):
            module, _, attribute = declared.implementation.partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return verb_command(str(self.name), name, declared)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, each.help) for name, each in stage_verbs(str(self.name)).items()])


class VerbCommand(click.Command):
    """A verb whose help lists every key of its spec."""

    declared: Verb
    stage: str

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Keys of --spec (the identity of the job)"):
            formatter.write_dl(spec_rows(self.declared.spec) or [("(none)", "")])
        if "method" in self.declared.spec.model_fields:
            with formatter.section(f'Methods of {self.stage} (--spec \'{{"method": {{"name": ...}}}}\')'):
                formatter.write_dl([(name, _method_help(self.stage, name)) for name in list_methods(self.stage)])
        with formatter.section("Keys of --exec (how to run; changes no result)"):
            formatter.write_dl(spec_rows(Execution))


def verb_command(stage: str, name: str, declared: Verb) -> VerbCommand:
    """The click command of a verb."""
    parameters: list[click.Parameter] = [
        click.Option(["--spec"], default="{}", help="JSON, or @FILE", show_default=True),
        click.Option(["--exec", "execution"], default="{}", help="JSON, or @FILE", show_default=True),
    ]
    for each, meaning in declared.inputs.items():
        kind = " (optional)" if each in declared.optional else ""
        parameters.append(
            click.Option(
                [f"--{each}", f"input_{each}"],
                type=click.Path(path_type=Path),
                multiple=each in declared.many,
                help=meaning + kind,
            )
        )
    parameters += [
        click.Option(["--out"], type=click.Path(path_type=Path), required=True, help="folder the artifact goes to"),
        click.Option(["--overwrite"], is_flag=True, help="replace the folder if it exists"),
        click.Option(["--key"], help="identity the graph planned: asked for in the store before any input is read"),
    ]

    def run(spec: str, execution: str, out: Path, overwrite: bool, key: str | None, **paths: Any) -> None:
        from pipelines.runs.lifecycle import run_job
        from pipelines.runs.ranks import leave

        inputs = {key.removeprefix("input_"): list(p) if isinstance(p, tuple) else p for key, p in paths.items()}
        run_job(stage, name, declared, spec, execution, inputs, out, overwrite=overwrite, key=key)
        if "RANK" in os.environ:
            leave()

    command = VerbCommand(name=name, params=parameters, callback=run, help=declared.help)
    command.declared, command.stage = declared, stage
    return command


def spec_rows(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str]]:
    """(dotted key, type, default and meaning) of every field, nested models included."""
    rows: list[tuple[str, str]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += spec_rows(inner, f"{prefix}{name}.")
            continue
        kind = getattr(inner, "__name__", None) if isinstance(inner, type) else str(inner).replace("typing.", "")
        default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
        rows.append((prefix + name, f"{kind}, {default}. {field.description or ''}".rstrip()))
    return rows


def _method_help(stage: str, name: str) -> str:
    card = method_card(stage, name)
    fields = ", ".join(
        f"{h.name} required" if h.default is ... else f"{h.name}={h.default!r}" for h in card.hyperparameters.values()
    )
    return f"{card.summary} [{fields}]" if fields else card.summary


def main() -> None:
    """Run the command line; a RetraceError becomes one line and exit status 2."""
    group = Stages(name="pipelines", help="Retrace: language-model papers, rerun down to their tables.")
    try:
        group.main(prog_name="python -m pipelines")
    except RetraceError as error:
        # Every rank meets the same fault; the first one says it, and torchrun ends the others in the meantime.
        if os.environ.get("RANK", "0") != "0":
            time.sleep(2)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
