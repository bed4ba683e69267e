"""The one exception a person is meant to read."""


class RetraceError(Exception):
    """Something the caller can mend.

    The message names the parameter key or the file at fault and the remedy, on one line;
    the command line prints it without a traceback and exits with status 2.
    """
