"""``store status``: by stage, where what the tables need is, with or without a remote."""

from __future__ import annotations

import shutil

from tests.store.team import run_of, store_of

GROWN = "results/growth/stack/default/seed0"
HEADER = ["stage", "wanted", "results", "store", "remote", "missing", "bytes", "computing"]


def rows(text: str) -> dict[str, list[str]]:
    """Stage -> the counts of its row."""
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == HEADER
    return {line[0]: line[1:6] for line in lines[1:] if line[1:2] and line[1].isdigit()}


def test_without_a_remote_what_is_here_is_counted(finished, store_command):
    done = store_command(finished, "status")
    table = rows(done.stdout)
    assert table["growth"] == ["2", "2", "2", "?", "0"]
    assert table["all"] == ["11", "11", "11", "?", "0"]
    # A minute for each of the 11.
    assert done.stdout.splitlines()[-1].endswith("11 min")
    assert done.stderr == "no remote is set (`dvc remote add -d NAME URL`): only what is here is known\n"


def test_with_a_remote_each_place_is_counted_by_itself(alice, bob, disk, store_command):
    store_command(alice, "share", "results/growth", "results/data")
    store_command(bob, "fetch", GROWN)
    (alice / "results" / "data" / "prose" / "seed0" / "run.json").unlink()
    store_of(alice).remove(run_of(alice / GROWN)["key"])
    ours, his = rows(store_command(alice, "status").stdout), rows(store_command(bob, "status").stdout)
    assert ours["growth"] == ["2", "2", "1", "2", "0"]
    assert ours["data"] == ["1", "0", "1", "1", "0"]
    assert his["growth"] == ["2", "0", "1", "2", "0"]
    assert his["tokenizer"] == ["2", "0", "0", "0", "2"]
    assert his["all"] == ["11", "0", "1", "3", "8"]
    # What is on the remote alone is known by its record there: three artifacts of a minute each.
    done = store_command(bob, "status")
    assert "3 min" in done.stdout
    assert done.stdout.endswith(f"remote: team ({disk})\n")


def test_each_artifact_is_a_line(alice, bob, store_command):
    store_command(alice, "share", GROWN)
    lines = store_command(bob, "status", "--jobs").stdout.splitlines()
    (line,) = (line for line in lines if line.startswith(GROWN))
    _, where, size, seconds = line.split("  ")
    assert (where, seconds) == ("remote", "60 s")
    assert size.endswith(" kB")
    assert "results/papers/claims  missing" in lines
    assert len(lines) == 12


def test_with_the_remote_away_it_says_so_and_counts_the_rest(alice, disk, store_command):
    shutil.rmtree(disk, ignore_errors=True)
    done = store_command(alice, "status")
    assert rows(done.stdout)["all"] == ["11", "11", "11", "?", "0"]
    assert done.stderr.startswith(f"warning: remote team ({disk}): no such folder")


def test_an_artifact_of_other_parameters_does_not_count_as_there(alice, store_command):
    (alice / "overlay.yaml").write_text("growth: {stack: {growth_factor: 2}}\n", encoding="utf-8")
    table = rows(store_command(alice, "status", "--configfile", "overlay.yaml").stdout)
    # The stacked model, its evaluation, the paper and the claims.
    assert table["growth"] == ["2", "1", "1", "?", "1"]
    assert table["all"][-1] == "4"
