"""How jobs run: their environment, and a check that executions which cannot work are refused before any job runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.ranks import check_machine
from pipelines.runs.verb import Execution, job_verb, parse_spec
from workflow.plan import Plan

# Resource of a rule -> key of --exec, as the rules' commands translate them.
RESOURCES = {"ranks": "processes", "expert_parallel": "expert_model_parallel_size"}

# Nothing here reports home.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_DISABLE_TELEMETRY": "1", "DVC_NO_ANALYTICS": "1"}


def prepare_environment(root: str, source: str) -> None:
    """Set what jobs inherit: this Python, where pipelines/ is, no telemetry, and no network unless the data is there.

    A job's ``python`` is the one that runs Snakemake, whether or not its environment is activated; what ``--sdm``
    activates for a job comes before it.

    Args:
        root: the folder that holds pipelines/.
        source: ``data.source``; only ``hub`` may reach the network, elsewhere a missing file is an error at once.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONPATH"] = root
    os.environ.update(QUIET)
    if source != "hub":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def check_executions(plan: Plan, rules: dict[str, Any], overwritten: dict[str, Any]) -> None:
    """Check every planned training job against its rule's ranks.

    Args:
        rules: rule name (which is its stage) -> Snakemake's rule object.
        overwritten: rule name -> resources set by a profile or the command line.

    Raises:
        RetraceError: names the rule, the sizes that do not fit and the remedy.
    """
    for name, rule in rules.items():
        values = {key: rule.resources[each].value for each, key in RESOURCES.items() if each in rule.resources}
        execution = parse_spec(Execution, values, f"resources of rule {name}")
        assert isinstance(execution, Execution)
        declared = job_verb(name, "train")
        try:
            # With a launcher the ranks start elsewhere: on a cluster's nodes, not here.
            if "launcher" not in overwritten.get(name, {}):
                check_machine(execution)
            for job in plan.jobs.values():
                if (job.stage, job.verb) == (name, "train") and declared.check is not None:
                    declared.check(declared.spec.model_validate(job.spec), execution)
        except RetraceError as error:
            raise RetraceError(f"rule {name} (--set-resources {name}:ranks=N, or a profile): {error}") from None
