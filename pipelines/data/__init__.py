"""Corpora and labelled tasks: text in, JSON lines out."""
