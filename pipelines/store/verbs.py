"""Commands on the store; none is a job."""

from __future__ import annotations

from pipelines.runs.verb import Command, Verb

VERBS: dict[str, Verb | Command] = {
    "share": Command("send finished artifacts to the team's remote", "pipelines.store.share:share"),
    "fetch": Command("bring the team's artifacts into the store here", "pipelines.store.fetch:fetch"),
    "status": Command("what the current tables need: here, on the remote, missing", "pipelines.store.status:status"),
    "verify": Command("check every object's digest, remove what is damaged", "pipelines.store.verify:verify"),
    "gc": Command("delete what no table, published commit or recent work needs", "pipelines.store.gc:gc"),
    "publish": Command(
        "write published.dvc, so that git holds these exact artifacts", "pipelines.store.publish:publish"
    ),
}
