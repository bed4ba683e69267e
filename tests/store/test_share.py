"""``store share``: what is sent, what is not sent twice, what is mended, and what is refused."""

from __future__ import annotations

import shutil

from tests.store.team import compute_again, contents, harm, object_of, record_of, run_of, store_of

GROWN = "results/growth/stack/default/seed0"
SCRATCH = "results/growth/scratch/default/seed0"
ALL = 11


def test_what_the_tables_need_is_sent_once(alice, disk, store_command):
    sent = store_command(alice, "share")
    assert sent.stdout.startswith(f"sent {ALL} artifacts (")
    assert f"to team ({disk})" in sent.stdout
    assert len(list(disk.glob("retrace/records/??/*.json"))) == ALL
    local, there = contents(alice / ".dvc" / "cache" / "files"), contents(disk / "files")
    assert there == local
    before = {path: path.stat().st_mtime_ns for path in disk.rglob("*")}
    again = store_command(alice, "share")
    assert again.stdout == f"nothing to do: team ({disk}) has all there is here, {ALL} artifacts\n"
    assert again.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in disk.rglob("*")} == before


def test_given_folders_alone_are_sent_and_the_rest_with_all(alice, disk, store_command):
    assert store_command(alice, "share", "results/growth/stack").stdout.startswith("sent 1 artifact (4 objects")
    assert [path.stem for path in disk.glob("retrace/records/??/*.json")] == [run_of(alice / GROWN)["key"]]
    assert store_command(alice, "share", "--all").stdout.startswith(f"sent {ALL - 1} artifacts")


def test_from_a_sub_folder_paths_are_meant_from_there(alice, call):
    done = call(alice, "bash", "-c", "cd results && PYTHONPATH=.. python -m pipelines store share growth/stack")
    assert done.stdout.startswith("sent 1 artifact")


def test_what_is_not_made_yet_is_said_and_is_no_error(alice, bob, store_command):
    store_command(alice, "share", GROWN)
    done = store_command(bob, "share")
    assert f"{ALL} artifacts not made yet: results/data/prose/seed0, " in done.stderr


def test_results_of_a_time_without_a_store_are_stored_and_sent(alice, store_command):
    shutil.rmtree(alice / ".dvc" / "cache")
    (alice / SCRATCH / "run.json").write_text('{"key": "of another job"}', encoding="utf-8")
    done = store_command(alice, "share")
    assert done.stdout.startswith(f"sent {ALL - 1} artifacts")
    assert done.stderr == f"1 artifact not made yet: {SCRATCH}\n"
    assert len(list(store_of(alice).records())) == ALL - 1


def test_a_truncated_and_a_known_damaged_object_there_are_replaced(alice, disk, store_command):
    store_command(alice, "share")
    truncated, damaged = (object_of(disk, record_of(alice, path)) for path in (GROWN, SCRATCH))
    whole = [truncated.read_bytes(), damaged.read_bytes()]
    harm(truncated, b"weig")
    harm(damaged, whole[1][::-1])
    note = alice / ".dvc" / "cache" / "retrace" / "damaged" / "team" / (damaged.parent.name + damaged.name)
    note.parent.mkdir(parents=True)
    note.touch()
    done = store_command(alice, "share")
    assert done.stdout.startswith("sent 0 artifacts (2 objects,")
    assert "; 2 in place of bad ones) to team" in done.stdout
    assert [truncated.read_bytes(), damaged.read_bytes()] == whole
    assert not note.exists()
    assert store_command(alice, "share").stdout.startswith("nothing to do")


def test_an_object_that_is_damaged_here_is_found_before_it_is_sent_and_the_others_go(
    alice, finished, disk, store_command
):
    bad = object_of(alice / ".dvc" / "cache", record_of(alice, GROWN))
    harm(bad, bad.read_bytes()[::-1])
    done = store_command(alice, "share", check=False)
    assert done.returncode == 1
    assert done.stdout.startswith(f"sent {ALL - 1} artifacts")
    assert f"error: not sent, as objects of them are damaged or missing here: {GROWN}. `python -m" in done.stderr
    assert not object_of(disk, record_of(alice, GROWN)).exists()

    # The remedy it names.
    assert store_command(alice, "verify", check=False).returncode == 1
    shutil.rmtree(alice / GROWN)
    compute_again(alice, GROWN, finished)
    # Its run record, the list of its files, and what was damaged.
    assert store_command(alice, "share").stdout.startswith("sent 1 artifact (3 objects,")


def test_of_two_who_computed_the_same_the_first_shared_stays_and_the_other_mends_it(alice, bob, disk, store_command):
    store_command(alice, "share")
    hers = record_of(alice, GROWN)
    his = compute_again(bob, GROWN, alice)
    assert his.tree != hers.tree
    assert store_command(bob, "share", GROWN).stdout.startswith("nothing to do")
    object_of(disk, hers).unlink()
    assert store_command(bob, "share", GROWN).stdout.startswith("sent 0 artifacts (1 object,")
    assert object_of(disk, hers).is_file()
    # Nobody but her has her run record, so his artifact takes the place of one that lost it.
    object_of(disk, hers, "run.json").unlink()
    assert store_command(bob, "share", GROWN).stdout.startswith("sent 1 artifact (2 objects,")
    record = disk / "retrace" / "records" / his.key[:2] / f"{his.key}.json"
    assert record.read_text(encoding="utf-8") == his.to_json()


def test_a_remote_record_that_is_refused_is_replaced(alice, disk, store_command):
    store_command(alice, "share")
    record = record_of(alice, GROWN)
    there = disk / "retrace" / "records" / record.key[:2] / f"{record.key}.json"
    there.write_text(there.read_text(encoding="utf-8").replace('"metrics.jsonl"', '"../metrics.jsonl"'))
    done = store_command(alice, "share")
    assert "is refused" in done.stderr
    assert there.read_text(encoding="utf-8") == record.to_json()


def test_without_a_remote_or_a_store_the_remedy_is_said(finished, alice, store_command, call):
    done = store_command(finished, "share", check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: no remote is set: `dvc remote add -d NAME URL` (a folder, ssh://, s3://...) sets one\n",
    )
    done = call(alice, "env", "RETRACE_STORE=off", "python", "-m", "pipelines", "store", "share", check=False)
    assert (done.returncode, done.stderr.count("RETRACE_STORE is off")) == (2, 1)


def test_a_remote_that_is_away_is_one_line_and_nothing_is_lost(alice, disk, store_command):
    disk.parent.rmdir()
    done = store_command(alice, "share", check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: remote team ({disk}): neither the folder nor its parent is there (is its disk mounted?)."
        " Nothing is lost: say it again when the remote answers\n"
    )
    disk.parent.mkdir()
    assert store_command(alice, "share").stdout.startswith(f"sent {ALL} artifacts")
