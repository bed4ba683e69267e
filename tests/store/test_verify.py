"""``store verify``: every object and record is read, what is bad is removed, and the way back is said."""

from __future__ import annotations

from tests.store.team import harm, object_of, record_of, store_of

GROWN = "results/growth/stack/default/seed0"
SCRATCH = "results/growth/scratch/default/seed0"


def test_a_sound_store_is_said_to_be_and_stays_as_it_is(alice, store_command):
    before = dict(store_of(alice).cache.objects())
    done = store_command(alice, "verify")
    assert done.stdout.startswith(f"checked 11 records and {len(before)} objects (")
    assert done.stdout.endswith("all of it is sound\n")
    assert dict(store_of(alice).cache.objects()) == before


def test_damage_is_removed_named_and_comes_back_by_a_fetch(alice, disk, store_command):
    store_command(alice, "share")
    bad = object_of(alice / ".dvc" / "cache", record_of(alice, GROWN))
    whole = bad.read_bytes()
    harm(bad, whole[::-1])
    refused = store_of(alice).path(record_of(alice, SCRATCH).key)
    refused.write_text(refused.read_text().replace("weights.safetensors", "/weights.safetensors"), encoding="utf-8")
    done = store_command(alice, "verify", check=False)
    assert done.returncode == 1
    assert f"error: 1 object damaged and removed, of {GROWN}: `python -m pipelines store fetch`" in done.stderr
    assert "error: 1 record refused, as said above" in done.stderr
    assert not bad.exists()
    assert not refused.exists()

    assert store_command(alice, "fetch").stdout.startswith("fetched 1 record and 1 object ")
    assert bad.read_bytes() == whole
    assert store_command(alice, "verify").returncode == 0


def test_an_object_that_no_record_names_is_checked_too(alice, store_command):
    stray = alice / ".dvc" / "cache" / "files" / "md5" / "00" / ("0" * 30)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"not the bytes of that name")
    done = store_command(alice, "verify", check=False)
    assert "of no artifact (no record names them)" in done.stderr
    assert not stray.exists()


def test_damage_on_the_remote_is_removed_and_comes_back_by_a_share(alice, disk, store_command):
    store_command(alice, "share")
    damaged, lost = (object_of(disk, record_of(alice, path)) for path in (GROWN, SCRATCH))
    whole = [damaged.read_bytes(), lost.read_bytes()]
    # Of the same size, so that nothing but reading it can tell.
    harm(damaged, whole[0][::-1])
    lost.unlink()
    done = store_command(alice, "verify", "--remote", check=False)
    assert done.returncode == 1
    assert f"error: 1 object damaged and removed, of {GROWN}: `python -m pipelines store share`" in done.stderr
    assert f"error: 1 object not there, of {SCRATCH}: `python -m pipelines store share`" in done.stderr
    assert not damaged.exists()
    store_command(alice, "share")
    assert [damaged.read_bytes(), lost.read_bytes()] == whole
    assert store_command(alice, "verify", "--remote", "team").stdout.endswith("all of it is sound\n")
