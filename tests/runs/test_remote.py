"""The remote: records after their objects, every object verified, and one clear line when the remote is away."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.runs.errors import RetraceError
from pipelines.runs.remote import Remote, RemoteAway, RemoteFault, objects_of, open_remote
from pipelines.runs.store import Record, Store, open_store, parse_record

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CONFIG = """\
[core]
    remote = team
['remote "team"']
    url = {url}
"""


@pytest.fixture(autouse=True)
def store_on(monkeypatch) -> None:
    monkeypatch.setenv("RETRACE_STORE", "full")


@pytest.fixture
def checkout(tmp_path) -> Callable[..., Path]:
    """``checkout("alice")``: a folder with DVC's configuration of one remote, the same for all."""
    (tmp_path / "disk").mkdir()

    def checkout(name: str, url: str = str(tmp_path / "disk" / "team"), more: str = "") -> Path:
        (tmp_path / name / ".dvc").mkdir(parents=True)
        (tmp_path / name / ".dvc" / "config").write_text(CONFIG.format(url=url) + more, encoding="utf-8")
        return tmp_path / name

    return checkout


@pytest.fixture
def put(make_run) -> Callable[..., Record]:
    """``put(checkout, digit)``: a finished, stored artifact whose key is the digit 64 times."""

    def put(root: Path, digit: str, weights: bytes = b"") -> Record:
        artifact = make_run(root / "results" / digit, key=digit * 64)
        (artifact / "weights").write_bytes(weights or b"weights of " + digit.encode())
        record = store_of(root).put(artifact, json.loads((artifact / "run.json").read_text()))
        assert record is not None
        return record

    return put


def store_of(root: Path) -> Store:
    store = open_store(root)
    assert store is not None
    return store


def remote_of(root: Path) -> Remote:
    remote = open_remote(root)
    assert remote is not None
    return remote


def push(root: Path, *records: Record) -> None:
    remote = remote_of(root)
    remote.make_ready()
    remote.push_objects(store_of(root), objects_of(records))
    remote.push_records(records)


def object_on(root: Path, record: Record, relpath: str = "weights") -> Path:
    """Where the remote has the object of a file."""
    (md5,) = (each.md5 for each in record.files if each.relpath == relpath)
    return Path(remote_of(root).url) / "files" / "md5" / md5[:2] / md5[2:]


def test_what_one_pushes_another_fetches_to_the_same_bytes(checkout, put, tmp_path):
    alice, bob = checkout("alice"), checkout("bob")
    records = [put(alice, digit) for digit in "ab"]
    push(alice, *records)
    store, remote = store_of(bob), remote_of(bob)
    assert remote.held_records(["a" * 64, "b" * 64, "c" * 64]) == {"a" * 64, "b" * 64}
    assert remote.fetch_records(store, ["a" * 64, "b" * 64, "c" * 64]) == records
    assert len(store.missing(records[0])) == 3
    told: list[int] = []
    remote.fetch_objects(store, records, told.append)
    files = {each.md5: each.size for record in records for each in record.files}
    assert sum(told) == sum(files.values())
    store.restore(records[0], tmp_path / "restored")
    assert (tmp_path / "restored" / "weights").read_bytes() == b"weights of a"
    # DVC's own commands find the folder's list, too, and objects as DVC protects them.
    assert store.cache.is_sound(records[0].tree)
    assert {store.cache.path(md5).stat().st_mode & 0o777 for md5 in files} == {0o444}


def test_only_what_is_absent_is_fetched(checkout, put):
    alice, bob = checkout("alice"), checkout("bob")
    push(alice, put(alice, "a"), put(alice, "b", b"weights of a"))
    store, remote = store_of(bob), remote_of(bob)
    (first,) = remote.fetch_records(store, ["a" * 64])
    remote.fetch_objects(store, [first])
    assert remote.fetch_records(store, ["a" * 64]) == []
    (second,) = remote.fetch_records(store, ["b" * 64])
    # The weights are the same object, and metrics too; the run record is not.
    assert [each.relpath for each in store.missing(second)] == ["run.json"]
    told: list[int] = []
    remote.fetch_objects(store, [first, second], told.append)
    assert sum(told) == next(each.size for each in second.files if each.relpath == "run.json")


def test_no_record_is_on_the_remote_while_any_of_its_objects_is_not(checkout, put, monkeypatch):
    alice = checkout("alice")
    records = [put(alice, digit) for digit in "abc"]
    remote, store = remote_of(alice), store_of(alice)
    seen = []

    def look(*_: object) -> None:
        """What a reader finds at this moment."""
        reader = remote_of(alice)
        records_there = reader.read_records(reader.list_records()).values()
        assert objects_of(records_there).items() <= reader.sizes(reader.list_objects()).items()
        seen.append(len(records_there))

    remote.make_ready()
    (Path(remote.url)).mkdir()
    before_each_file(monkeypatch, look)
    remote.push_objects(store, objects_of(records))
    remote.push_records(records)
    # In the threads that write records others may have finished before.
    assert seen[: len(objects_of(records))] == [0] * len(objects_of(records))
    assert len(seen) == len(objects_of(records)) + 3


def test_interrupted_half_way_nothing_is_lost_and_the_next_push_goes_on(checkout, put, monkeypatch):
    alice, bob = checkout("alice"), checkout("bob")
    records = [put(alice, digit) for digit in "abc"]
    count = 0

    def fail_at_the_fourth(path: str) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise OSError(errno.EIO, "Input/output error", path)

    with monkeypatch.context() as patch:
        before_each_file(patch, fail_at_the_fourth)
        with pytest.raises(RemoteAway, match=r"remote team \(.*team\): \[Errno 5\] Input/output error.* say it again"):
            push(alice, *records)
    assert remote_of(alice).list_records() == []
    assert len(remote_of(alice).list_objects()) >= 3
    push(alice, *records)
    remote_of(bob).fetch_records(store_of(bob), [record.key for record in records])
    remote_of(bob).fetch_objects(store_of(bob), records)
    assert [store_of(bob).missing(record) for record in records] == [[], [], []]


def test_a_remote_that_goes_away_while_fetching_leaves_whole_objects_only(checkout, put, monkeypatch):
    alice, bob = checkout("alice"), checkout("bob")
    record = put(alice, "a")
    push(alice, record)
    remote, store = remote_of(bob), store_of(bob)
    remote.fetch_records(store, [record.key])
    with monkeypatch.context() as patch:
        before_each_file(patch, fail_with(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")))
        with pytest.raises(RemoteAway, match="Connection reset by peer"):
            remote.fetch_objects(store, [record])
    assert all(store.cache.is_sound(name) for name, _ in store.cache.objects())
    remote.fetch_objects(store, [record])
    assert store.missing(record) == []


def test_a_full_disk_here_is_not_blamed_on_the_remote(checkout, put, monkeypatch):
    alice, bob = checkout("alice"), checkout("bob")
    record = put(alice, "a")
    push(alice, record)
    before_each_file(monkeypatch, fail_with(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(RetraceError, match=r"cache cannot take what is fetched.*No space left") as raised:
        remote_of(bob).fetch_objects(store_of(bob), [record])
    assert not isinstance(raised.value, RemoteAway)


def test_a_read_only_cache_here_is_not_blamed_on_the_remote(checkout, put, read_only):
    alice, bob = checkout("alice"), checkout("bob")
    record = put(alice, "a")
    push(alice, record)
    read_only(bob / ".dvc" / "cache")
    for fetch in (
        lambda: remote_of(bob).fetch_records(store_of(bob), [record.key]),
        lambda: remote_of(bob).fetch_objects(store_of(bob), [record]),
    ):
        with pytest.raises(RetraceError, match=r"cache cannot take what is fetched.*Read-only") as raised:
            fetch()
        assert not isinstance(raised.value, RemoteAway)


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (lambda path: path.write_bytes(b"weights of x"), "0 missing and 1 damaged"),
        (lambda path: path.write_bytes(b"weig"), "0 missing and 1 damaged"),
        (lambda path: path.unlink(), "1 missing and 0 damaged"),
    ],
)
def test_an_object_that_is_bad_on_the_remote_is_named_kept_out_and_mended_by_the_next_push(checkout, put, harm, kind):
    alice, bob = checkout("alice"), checkout("bob")
    good, bad = put(alice, "a"), put(alice, "b")
    push(alice, good, bad)
    there = object_on(alice, bad)
    there.chmod(0o644)
    harm(there)
    there.exists() and there.chmod(0o444)
    remote, store = remote_of(bob), store_of(bob)
    with pytest.raises(RemoteFault, match=kind) as raised:
        remote.fetch_objects(store, [bad, good])
    (name,) = raised.value.objects
    assert not store.cache.path(name).exists()
    assert store.missing(good) == []
    assert (name in remote.damage(store)) == ("1 damaged" in kind)

    # Bob computes what he could not fetch, and shares it.
    assert put(bob, "b").tree == bad.tree
    remote.push_objects(store, {name: len(b"weights of b")}, replace={name})
    assert name not in remote.damage(store)
    assert there.read_bytes() == b"weights of b"


def test_a_record_whose_sizes_lie_costs_no_sound_object(checkout, put):
    alice, bob = checkout("alice"), checkout("bob")
    record = put(alice, "a")
    push(alice, record)
    mine = put(bob, "b", b"weights of a")
    forged = json.loads(record.to_json())
    (entry,) = (each for each in forged["files"] if each["relpath"] == "weights")
    forged["size"] += 1 - entry["size"]
    entry["size"] = 1
    with pytest.raises(RemoteFault):
        remote_of(bob).fetch_objects(store_of(bob), [parse_record(json.dumps(forged), record.key)])
    assert store_of(bob).missing(mine) == []


def test_a_record_that_would_leave_its_folder_is_refused_by_name_and_others_come(checkout, put, capsys):
    alice, bob = checkout("alice"), checkout("bob")
    record, evil = put(alice, "a"), put(alice, "b")
    push(alice, record, evil)
    path = Path(remote_of(alice).url) / "retrace" / "records" / "bb" / f"{evil.key}.json"
    text = path.read_text().replace('"relpath": "weights"', '"relpath": "../../weights"')
    path.write_text(text)
    assert remote_of(bob).fetch_records(store_of(bob), [record.key, evil.key]) == [record]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "warning: remote team: record bbbbbbbbbbbb of the store is refused" in said
    assert store_of(bob).record(evil.key) is None


def test_a_shared_record_takes_the_place_of_one_whose_objects_are_lost_and_of_no_other(checkout, put):
    alice, bob = checkout("alice"), checkout("bob")
    hers, his = put(alice, "a", b"computed by alice"), put(bob, "a", b"computed by bob")
    push(alice, hers)
    store, remote = store_of(bob), remote_of(bob)
    assert remote.fetch_records(store, [his.key]) == []
    assert store.record(his.key) == his
    store.cache.remove(next(each.md5 for each in his.files if each.relpath == "weights"))
    assert remote.fetch_records(store, [his.key]) == [hers]
    assert store.record(his.key) == hers


def test_a_disk_that_is_not_mounted_is_neither_an_empty_remote_nor_written_to(checkout, put, tmp_path):
    alice = checkout("alice", url=str(tmp_path / "disk" / "mount" / "team"))
    record = put(alice, "a")
    with pytest.raises(RemoteAway, match=r"no such folder .is its disk mounted"):
        remote_of(alice).held_records([record.key])
    with pytest.raises(RemoteAway, match="neither the folder nor its parent is there"):
        remote_of(alice).make_ready()
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "more", "module"),
    [
        ("{file}/team", "", "dvc"),
        ("s3://bucket/team", "    endpointurl = http://127.0.0.1:9\n", "dvc_s3"),
        ("ssh://127.0.0.1:9/team", "", "dvc_ssh"),
    ],
)
def test_a_remote_that_cannot_be_reached_says_so_within_seconds(checkout, monkeypatch, tmp_path, url, more, module):
    pytest.importorskip(module, reason=f"no {module}: pip install it to try such a remote")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    (tmp_path / "file").touch()
    alice = checkout("alice", url=url.format(file=tmp_path / "file"), more=more)
    started = time.monotonic()
    with pytest.raises(RemoteAway, match="Nothing is lost: say it again when the remote answers"):
        remote_of(alice).held_records(["a" * 64])
    assert time.monotonic() - started < 10


def test_without_a_default_remote_there_is_none_and_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    assert open_remote(tmp_path) is None
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("['remote \"team\"']\n    url = /mnt/team\n")
    assert open_remote(tmp_path) is None
    assert remote_named(tmp_path, "Team").url == "/mnt/team"
    (tmp_path / ".dvc" / "config").write_text("['remote \"far\"']\n    url = ssh://me:secret@host:22/team\n")
    assert remote_named(tmp_path, "far").url == "ssh://me@host:22/team"
    with pytest.raises(
        RetraceError, match=r"no remote 'away' \(known: far\): add it with `dvc remote add -d away URL`"
    ):
        open_remote(tmp_path, "away")


@pytest.mark.parametrize("option", ["version_aware", "worktree"])
def test_a_remote_that_keeps_files_by_path_is_refused(checkout, option):
    alice = checkout("alice", url="s3://bucket/team", more=f"    {option} = true\n")
    with pytest.raises(RetraceError, match=f"remote team is {option}: it keeps files by path"):
        open_remote(alice)


def test_a_configuration_that_dvc_refuses_is_named(checkout):
    alice = checkout("alice", more="    colour = green\n")
    with pytest.raises(RetraceError, match=r"DVC's configuration of the remote: .*colour"):
        open_remote(alice)


def remote_named(root: Path, name: str) -> Remote:
    remote = open_remote(root, name)
    assert remote is not None
    return remote


def before_each_file(monkeypatch: pytest.MonkeyPatch, act: Callable[[str], object]) -> None:
    """Let ``act(path)`` come before DVC writes a file anywhere on this machine, by a copy or from a stream."""
    from dvc_objects.fs import generic
    from dvc_objects.fs.local import FsspecLocalFileSystem, LocalFileSystem

    copy, upload = FsspecLocalFileSystem.put_file, LocalFileSystem.upload_fobj

    def put_file(self, source, to, **kwargs):
        act(to)
        return copy(self, source, to, **kwargs)

    def upload_fobj(self, stream, to, **kwargs):
        act(to)
        return upload(self, stream, to, **kwargs)

    def no_reflink(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no reflink here")

    monkeypatch.setattr(FsspecLocalFileSystem, "put_file", put_file)
    monkeypatch.setattr(LocalFileSystem, "upload_fobj", upload_fobj)
    # Where the file system shares blocks DVC does not copy.
    monkeypatch.setattr(generic, "_link", no_reflink)


def fail_with(fault: OSError) -> Callable[[str], None]:
    def fail(_: str) -> None:
        raise fault

    return fail
