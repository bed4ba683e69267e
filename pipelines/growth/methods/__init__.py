"""Growth methods; each file is one (see pipelines/growth/protocol.py)."""
