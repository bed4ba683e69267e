"""Pretraining methods; each file is one (see pipelines/pretrain/protocol.py)."""
