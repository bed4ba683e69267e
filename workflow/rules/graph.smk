# What the rules share: the validated parameters, the plan, the store, and lookups by output path.
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile

sys.path.insert(0, workflow.basedir)

from pipelines.runs.errors import RetraceError
from pipelines.runs.reuse import holds
from workflow.executions import prepare_environment
from workflow.locks import take_place
from workflow.papers import plan_papers
from workflow.sharing import Sharing

# The processes that Snakemake starts for its jobs do not lock.
if workflow.is_main_process:
    take_place(Path.cwd())

try:
    PLAN = plan_papers(config, workflow.basedir)
    SHARING = Sharing(PLAN, ask=workflow.is_main_process)
except RetraceError as error:
    raise WorkflowError(str(error)) from None

prepare_environment(workflow.basedir, PLAN.params.data.source)

RUN = "{method}/{setting}/seed{seed}"


wildcard_constraints:
    domain="[a-z_]+",
    stage="pretrain|growth|moe|continual",
    step="coalesced|decoalesced|interpolated",
    method="[a-z0-9_]+",
    setting="[^/]+",
    seed="[0-9]+",
    paper="[a-z0-9_]+",
    table="[a-z0-9_]+",


def planned(path, view):
    """Function of wildcards for input or params: what view makes of the job planned at this path."""

    def lookup(wildcards):
        try:
            return view(PLAN[path.format(**wildcards)])
        except RetraceError as error:
            raise WorkflowError(str(error)) from None

    return lookup


def inputs(job):
    """View: what the job waits for. Once it is made, what its inputs do is nothing to it: their keys are in its own.

    Ancient inputs would hide from Snakemake that a job behind them has changed, so only a current job's are.
    """
    current = holds(Path(job.path), job.key)
    if workflow.is_main_process and Path(job.path).exists():
        believe_artifact(job, current)
    waited_for = SHARING.inputs(job, current=current)
    return {
        name: ancient(paths) if current else paths for name, paths in waited_for.items()
    }


def believe_artifact(job, current):
    """Where Snakemake's own notes on an artifact in place say something else than the artifact, go by the artifact.

    Notes get lost, and artifacts that DVC or a person put there have none, or those of the one before.
    """
    artifact = IOFile(job.path)
    noted = workflow.persistence.params(artifact)
    noted_current = noted is not None and repr(job.key) in noted
    if current and noted is not None and not noted_current:
        workflow.persistence.cleanup_metadata(artifact)
    if not current and (noted is None or noted_current):
        workflow.dag.forcefiles.add(job.path)


def key(job):
    """View: the job's identity, so that Snakemake reruns what changed, code included."""
    return job.key


def verb(job):
    """View: the job's verb, for a rule of several."""
    return job.verb


def options(wildcards, output):
    """Params function: spec and inputs on the command line.

    A function of the output is not among the params that Snakemake compares, so that the key alone decides.
    """
    return PLAN[output[0]].options


def artifacts_of_this_call():
    """Folders of the artifacts that this call of Snakemake makes."""
    jobs = workflow.dag.needrun_jobs(exclude_finished=False)
    return [path for job in jobs for path in map(str, job.output) if path in PLAN.jobs]


def fetch_artifacts():
    """Bring what the remote has of this call's artifacts, before any job starts."""
    try:
        SHARING.fetch(artifacts_of_this_call())
    except RetraceError as error:
        raise WorkflowError(str(error)) from None
