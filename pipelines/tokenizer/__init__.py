"""Tokenizers: training, loading, measuring, and corpora as tokens."""
