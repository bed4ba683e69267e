"""Pretraining: dense models from scratch."""
