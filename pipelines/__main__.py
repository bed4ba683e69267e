"""``python -m pipelines``: every stage verb as a command.

The guard matters: checkpoint writers start helpers with ``spawn``, which imports this module again.
"""

from pipelines.runs.command import main

if __name__ == "__main__":
    main()
