"""``store fetch``: what a colleague's clone gets, in whole or in the parts it asks for."""

from __future__ import annotations

import shutil

import pytest

from tests.store.team import contents, harm, object_of, record_of, run_of, store_of

GROWN = "results/growth/stack/default/seed0"
PAPER = "results/papers/gstack"
ALL = 11


@pytest.fixture
def shared(alice, store_command):
    """Alice's checkout after she shared everything."""
    store_command(alice, "share")
    return alice


def test_a_fresh_clone_gets_what_the_tables_need_and_the_same_bytes(shared, bob, tmp_path, store_command):
    assert store_command(bob, "fetch").stdout.startswith(f"fetched {ALL} records and ")
    record = record_of(shared, GROWN)
    store_of(bob).restore(record, tmp_path / "restored")
    restored, expected = contents(tmp_path / "restored"), contents(shared / GROWN)
    assert run_of(tmp_path / "restored") | {"provenance": "computed"} == run_of(shared / GROWN) | {
        "restored_at": run_of(tmp_path / "restored")["restored_at"]
    }
    assert {**restored, "run.json": b""} == {**expected, "run.json": b""}
    assert not (bob / "results").exists()
    again = store_command(bob, "fetch").stdout
    assert again == f"nothing to do: all that team ({shared.parent / 'disk' / 'team'}) has of {ALL} artifacts is here\n"


def test_a_target_brings_its_artifact_and_nothing_upstream(shared, bob, store_command):
    scored = {f"results/evaluate/growth/{name}/default/seed0" for name in ("scratch", "stack")}
    for target, expected in (
        ("results/tables/gstack/operators.md", {PAPER}),
        ("results/claims.md", {"results/papers/claims"}),
        ("./results/growth/stack/", {GROWN}),
        ("results/evaluate/growth", scored),
    ):
        shutil.rmtree(bob / ".dvc" / "cache", ignore_errors=True)
        store_command(bob, "fetch", target)
        assert {record.path for record in store_of(bob).records()} == expected
        assert all(store_of(bob).missing(record) == [] for record in store_of(bob).records())


def test_records_alone_come_without_an_object(shared, bob, store_command):
    said = store_command(bob, "fetch", "--records-only").stdout
    assert said.startswith(f"fetched {ALL} records and 0 objects (0 bytes)")
    assert len(list(store_of(bob).records())) == ALL
    assert list(store_of(bob).cache.objects()) == []


def test_a_target_that_nothing_makes_is_refused_with_the_remedy(shared, bob, store_command):
    done = store_command(bob, "fetch", "results/growth/stck", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: results/growth/stck: the current parameters have no such artifact or table;")


def test_what_nobody_has_shared_is_said_and_is_no_error(alice, bob, store_command):
    store_command(alice, "share", GROWN)
    done = store_command(bob, "fetch")
    assert done.stdout.startswith("fetched 1 record and 3 objects")
    assert f"{ALL - 1} artifacts not there, to be computed: results/data/prose/seed0, " in done.stderr


def test_damage_on_the_remote_is_named_with_its_artifact_and_the_rest_comes(shared, bob, disk, store_command):
    bad = object_of(disk, record_of(shared, GROWN))
    harm(bad, bad.read_bytes()[::-1])
    done = store_command(bob, "fetch", check=False)
    assert done.returncode == 1
    assert "0 missing and 1 damaged there, such as " in done.stderr
    assert done.stderr.endswith(f"It concerns {GROWN}\n")
    whole = [record.path for record in store_of(bob).records() if not store_of(bob).missing(record)]
    assert len(whole) == ALL - 1


def test_a_record_with_a_path_outside_its_folder_is_refused_and_the_rest_comes(shared, bob, disk, store_command):
    key = run_of(shared / GROWN)["key"]
    path = disk / "retrace" / "records" / key[:2] / f"{key}.json"
    path.write_text(path.read_text().replace('"model/weights.safetensors"', '"../../../../weights.safetensors"'))
    done = store_command(bob, "fetch")
    assert f"warning: remote team: record {key[:12]} of the store is refused" in done.stderr
    assert f"1 artifact not there, to be computed: {GROWN}\n" in done.stderr
    assert len(list(store_of(bob).records())) == ALL - 1
    assert not list(bob.rglob("weights.safetensors"))
