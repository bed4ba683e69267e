"""Routing methods; each file is one (see pipelines/moe/protocol.py)."""
