"""What git holds of artifacts: the published.dvc of every branch and tag, and whatever else DVC tracks in them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from pipelines.runs.cache import OBJECT_NAME
from pipelines.runs.errors import RetraceError

PUBLISHED = "published.dvc"


def published_trees(root: Path) -> set[str]:
    """Folder lists (``<md5>.dir``) that published.dvc of the working tree names."""
    try:
        return _trees((root / PUBLISHED).read_text(encoding="utf-8"), str(root / PUBLISHED))
    except FileNotFoundError:
        return set()


def trees_of_refs(root: Path) -> set[str]:
    """Folder lists that published.dvc names in the working tree, at HEAD, and in every branch and tag of this clone.

    Raises:
        RetraceError: git does not answer, or one of the files cannot be read: what it needs would be unknown.
    """
    trees = published_trees(root)
    if not _in_git(root):
        return trees
    refs = _git(root, "for-each-ref", "--format=%(objectname)", "refs/heads", "refs/tags", "refs/remotes").split()
    asked = "".join(f"{commit}:{PUBLISHED}\n" for commit in dict.fromkeys([*refs, "HEAD"]))
    found = _git(root, "cat-file", "--batch-check=%(objecttype) %(objectname)", given=asked)
    for blob in {line.split()[1] for line in found.splitlines() if line.startswith("blob ")}:
        trees |= _trees(_git(root, "cat-file", "blob", blob), f"{PUBLISHED} of a branch or tag")
    return trees


def tracked_objects(root: Path) -> set[str]:
    """Objects that any .dvc file or dvc.lock needs, in the working tree and in every branch and tag, as DVC says.

    Folder lists that are not in the cache are not asked of a remote, so what they name is not among them.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root), config={"core": {"no_scm": not _in_git(root)}}) as repo:
            repo.config["core"].pop("remote", None)
            repo.config["remote"].clear()
            used = repo.used_objs(all_branches=True, all_tags=True, force=True)
    except DvcException as fault:
        raise RetraceError(f"DVC cannot say what it tracks, so nothing is deleted: {fault}") from None
    return {item.value for objects in used.values() for item in objects if item.value}


def _trees(text: str, where: str) -> set[str]:
    import yaml

    try:
        outs: list[Any] = yaml.safe_load(text)["outs"]
        names = {str(out["md5"]) for out in outs}
    except (yaml.YAMLError, KeyError, TypeError):
        names = {""}
    if not all(OBJECT_NAME.fullmatch(name) for name in names):
        raise RetraceError(f"{where} is not a list of artifacts: `python -m pipelines store publish` writes it")
    return names


def _in_git(root: Path) -> bool:
    return subprocess.run(["git", "-C", str(root), "rev-parse", "--git-dir"], capture_output=True).returncode == 0


def _git(root: Path, *arguments: str, given: str | None = None) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], input=given, capture_output=True, text=True)
    if done.returncode != 0:
        raise RetraceError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout
