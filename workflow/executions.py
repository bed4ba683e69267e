"""Executions that cannot work are refused when the graph is planned, not after an hour of upstream training."""

from __future__ import annotations

from typing import Any

from pipelines.runs.errors import RetraceError
from pipelines.runs.ranks import check_machine
from pipelines.runs.verb import Execution, job_verb, parse_spec
from workflow.plan import Plan

# Resource of a rule -> key of --exec, as the rules' commands translate them.
RESOURCES = {"ranks": "processes", "expert_parallel": "expert_model_parallel_size"}


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
