"""Retrace: language-model papers, rerun down to their tables.

Every stage is a pure function of files, started as
``python -m pipelines <stage> <verb> --spec JSON --<input> PATH --out DIR``.
"""

__version__ = "0.1.0"
