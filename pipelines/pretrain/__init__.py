"""Pretraining: models from scratch, their linear layers dense or in factors."""
