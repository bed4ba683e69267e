# What the rules share: the validated parameters, the plan, and lookups into it by output path.
import sys

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from pipelines.runs.errors import RetraceError
from workflow.executions import prepare_environment
from workflow.papers import plan_papers

try:
    PLAN = plan_papers(config, workflow.basedir)
except RetraceError as error:
    raise WorkflowError(str(error)) from None

prepare_environment(workflow.basedir, PLAN.params.data.source)

RUN = "{method}/{setting}/seed{seed}"


wildcard_constraints:
    domain="[a-z_]+",
    stage="pretrain|growth|moe|continual",
    method="[a-z0-9_]+",
    setting="[^/]+",
    seed="[0-9]+",
    paper="[a-z0-9_]+",
    table="[a-z0-9_]+",


def planned_inputs(path):
    """Input function: the artifacts that the job at this path reads."""

    def lookup(wildcards):
        return dict(planned(path, wildcards).inputs)

    return lookup


def planned_options(path):
    """Params function: the same inputs as command-line options."""

    def lookup(wildcards):
        return planned(path, wildcards).input_options

    return lookup


def planned_spec(path):
    """Params function: the job's spec, as JSON."""

    def lookup(wildcards):
        return planned(path, wildcards).spec_json

    return lookup


def planned_key(path):
    """Params function: the job's identity, so that Snakemake reruns what changed, code included."""

    def lookup(wildcards):
        return planned(path, wildcards).key

    return lookup


def planned(path, wildcards):
    try:
        return PLAN[path.format(**wildcards)]
    except RetraceError as error:
        raise WorkflowError(str(error)) from None
