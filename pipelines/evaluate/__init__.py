"""Scores models with lm-evaluation-harness, on proxies from held-out text or on real sets of a local folder."""
