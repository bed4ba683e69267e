# What can only be checked once the rules are known: the ranks their jobs start.
from workflow.executions import check_executions

try:
    check_executions(
        PLAN,
        {name: workflow.get_rule(name) for name in ("pretrain", "growth", "moe")},
        workflow.resource_settings.overwrite_resources,
    )
except RetraceError as error:
    raise WorkflowError(str(error)) from None
