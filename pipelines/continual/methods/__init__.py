"""Continual-learning methods: one file each, see ``pipelines.continual.protocol``."""
