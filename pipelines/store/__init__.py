"""Sharing finished artifacts with a team: commands over the store of ``pipelines.runs`` and its remote. No science."""
