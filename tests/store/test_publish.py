"""``store publish``: a file that git holds, and from which DVC alone brings exactly the stored artifacts."""

from __future__ import annotations

import shutil

import yaml

from tests.store.team import AUTHOR, compute_again, contents, record_of, run_of, store_of

GROWN = "results/growth/stack/default/seed0"
ALL = 11


def test_a_clone_gets_the_published_artifacts_by_dvc_alone(alice, bob, tmp_path, store_command, call):
    said = store_command(alice, "publish").stdout
    assert said == f"wrote published.dvc: {ALL} artifacts. Commit it, and `python -m pipelines store share`\n"
    store_command(alice, "share")
    call(alice, "git", "add", "published.dvc")
    call(alice, "git", *AUTHOR, "commit", "-q", "-m", "Publish")
    call(bob, "git", "pull", "-q")

    call(bob, "dvc", "fetch", "-q", "published.dvc")
    assert not (bob / "results").exists()
    record = record_of(alice, GROWN)
    assert store_of(bob).missing(record) == []
    assert store_of(bob).cache.is_sound(record.tree)
    call(bob, "dvc", "pull", "-q", "published.dvc")
    assert contents(bob / "results") == contents(alice / "results")
    assert call(bob, "git", "status", "--short").stdout == ""
    assert "up to date" in call(bob, "dvc", "status", "published.dvc").stdout

    # A restored artifact says so in its run record, which DVC keeps until it is told not to.
    shutil.rmtree(bob / GROWN)
    store_of(bob).restore(record, bob / GROWN)
    assert call(bob, "dvc", "pull", "-q", "published.dvc", check=False).returncode != 0
    assert run_of(bob / GROWN)["provenance"] == "restored"
    call(bob, "dvc", "pull", "-q", "--force", "published.dvc")
    assert contents(bob / "results") == contents(alice / "results")


def test_the_file_says_every_artifact_its_stored_digest_and_its_key(alice, store_command):
    store_command(alice, "publish")
    text = (alice / "published.dvc").read_text(encoding="utf-8")
    assert text.startswith("# Every artifact that the tables of this commit were made from;")
    outs = {out["path"]: out for out in yaml.safe_load(text)["outs"]}
    assert list(outs) == sorted(outs)
    assert len(outs) == ALL
    record = record_of(alice, GROWN)
    assert outs[GROWN] == {
        "path": GROWN,
        "md5": record.tree,
        "size": sum(len(content) for content in contents(alice / GROWN).values()),
        "nfiles": 3,
        "hash": "md5",
        "meta": {"key": run_of(alice / GROWN)["key"]},
    }


def test_unchanged_content_leaves_the_file_alone(alice, store_command):
    store_command(alice, "publish")
    before = (alice / "published.dvc").stat()
    assert store_command(alice, "publish").stdout == f"published.dvc is up to date: {ALL} artifacts\n"
    after = (alice / "published.dvc").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_artifacts_that_are_not_made_are_refused_by_name(alice, store_command):
    store_of(alice).remove(record_of(alice, GROWN).key)
    done = store_command(alice, "publish", check=False)
    assert done.returncode == 2
    assert f"error: 1 artifact of the current tables not in the store: {GROWN}. Run `snakemake" in done.stderr
    assert not (alice / "published.dvc").exists()


def test_records_of_the_remote_serve_who_has_not_restored_everything(alice, bob, store_command):
    store_command(alice, "share")
    assert f"wrote published.dvc: {ALL} artifacts" in store_command(bob, "publish").stdout
    store_command(alice, "publish")
    assert (bob / "published.dvc").read_bytes() == (alice / "published.dvc").read_bytes()


def test_what_one_published_is_sent_though_another_shared_the_same_job_first(alice, bob, disk, store_command, call):
    mine = [compute_again(bob, path, alice) for path in sorted(run_folders(alice))]
    store_command(bob, "publish")
    store_command(alice, "share")
    assert "sent 0 artifacts" in store_command(bob, "share").stdout
    shutil.rmtree(bob / ".dvc" / "cache")
    expected = contents(bob / "results")
    shutil.rmtree(bob / "results")
    call(bob, "dvc", "pull", "-q", "published.dvc")
    assert contents(bob / "results") == expected
    assert len(mine) == ALL


def run_folders(checkout) -> list[str]:
    return [path.parent.relative_to(checkout).as_posix() for path in (checkout / "results").rglob("run.json")]
