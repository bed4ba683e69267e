"""Retrace: language-model papers, rerun down to their tables.

Every stage is a pure function of files, started as
``python -m pipelines <stage> <verb> --spec JSON --<input> PATH --out DIR``.

Importing the package lets ``transformers.AutoTokenizer`` read its tokenizers, and loads nothing.
"""

from pipelines.tokenizer.registration import register_tokenizer

__version__ = "0.1.0"

register_tokenizer()
