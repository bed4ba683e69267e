"""The store: whole artifacts by key, verified, and nothing in it that could do harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.runs.cache import Cache, CacheSettings, FileEntry, ObjectFault
from pipelines.runs.errors import RetraceError
from pipelines.runs.store import Record, Store, open_store, parse_record, tree_bytes
from tests.runs.artifacts import run_of

KEY = "a1" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Cache(CacheSettings(tmp_path / "cache")), tmp_path)


@pytest.fixture
def make_artifact(tmp_path: Path, make_run) -> Callable[..., Path]:
    """An artifact with a sub-folder and a weight file: ``make_artifact("name", key=KEY, weights=...)``."""

    def make_artifact(name: str = "artifact", key: str = KEY, weights: bytes = b"weights") -> Path:
        folder: Path = make_run(tmp_path / "results" / name, key=key, final={"val_loss": 1.5})
        (folder / "model").mkdir()
        (folder / "model" / "weights.safetensors").write_bytes(weights)
        (folder / "model" / "größe").write_text("copy of nothing else")
        return folder

    return make_artifact


def put(store: Store, artifact: Path) -> Record:
    record = store.put(artifact, run_of(artifact))
    assert record is not None
    return record


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_restored_artifact_is_the_stored_bytes_and_says_where_it_came_from(store, make_artifact, tmp_path):
    artifact = make_artifact()
    (artifact / ".snakemake_timestamp").touch()
    record = put(store, artifact)
    out = tmp_path / "elsewhere" / "run"
    store.restore(record, out)
    expected, restored = contents(artifact), contents(out)
    run = json.loads(restored.pop("run.json"))
    computed = json.loads(expected.pop("run.json"))
    assert "restored_at" in run
    assert {**run, "provenance": "computed"} == {**computed, "restored_at": run["restored_at"]}
    assert run["provenance"] == "restored"
    assert expected.pop(".snakemake_timestamp") == b""
    assert restored == expected
    assert [each.name for each in out.parent.iterdir()] == ["run"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc.*")
def test_the_list_of_files_is_the_object_that_dvc_makes(store, make_artifact, monkeypatch, tmp_path):
    from dvc.repo import Repo

    artifact = make_artifact()
    (artifact / "model" / 'quo"te & space').touch()
    record = put(store, artifact)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    repo = Repo.init(str(tmp_path), no_scm=True)
    try:
        (stage,) = repo.add(str(artifact))
    finally:
        repo.close()
    assert stage.outs[0].hash_info.value == record.tree
    path = Path(repo.cache.local.oid_to_path(record.tree))
    assert store.cache.path(record.tree).read_bytes() == path.read_bytes() == tree_bytes(record.files)
    for each in record.files:
        assert Path(repo.cache.local.oid_to_path(each.md5)).stat().st_size == each.size


def test_a_record_survives_being_written_and_read(store, make_artifact):
    record = put(store, make_artifact())
    assert record.path == "results/artifact"
    assert record.run == run_of(make_artifact("again"))
    assert record.size == sum(each.size for each in record.files)
    assert [each.relpath for each in record.files] == sorted(each.relpath for each in record.files)
    assert parse_record(record.to_json(), KEY) == record == store.record(KEY)
    assert list(store.records()) == [record]
    store.remove(KEY)
    assert store.record(KEY) is None


HARM = {
    "/etc/passwd": "leave the artifact's folder",
    "../outside": "leave the artifact's folder",
    "model/../../outside": "leave the artifact's folder",
    "model//weights": "leave the artifact's folder",
    "model/./weights": "leave the artifact's folder",
    "model/": "leave the artifact's folder",
    "": "leave the artifact's folder",
    "model\\..\\outside": "not a safe file name",
    "nul\0": "not a safe file name",
    "\x1b[2J": "not a safe file name",
    "\udcff": "not a safe file name",
    7: "not a safe file name",
    None: "not a safe file name",
}


@pytest.mark.parametrize(("name", "said"), HARM.items())
def test_a_file_that_would_leave_its_folder_is_refused(store, make_artifact, tmp_path, name, said):
    good = put(store, make_artifact())
    values = json.loads(good.to_json())
    values["files"][-1]["relpath"] = name
    with pytest.raises(RetraceError, match=said):
        parse_record(json.dumps(values), KEY)
    with pytest.raises(RetraceError, match=said):
        store.add_record(json.dumps(values), KEY)


def tampered(record: Record, **changes: Any) -> str:
    return json.dumps({**json.loads(record.to_json()), **changes})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: "", "is refused"),
        (lambda r: "[" * 100_000, "is refused"),
        (lambda r: "[]", "is refused"),
        (lambda r: r.to_json()[:100], "is refused"),
        (lambda r: tampered(r, format="retrace-record-2"), "update the checkout"),
        (lambda r: tampered(r, key="b" * 64), "another key"),
        (lambda r: tampered(r, run={**r.run, "key": "b" * 64}), "another key"),
        (lambda r: tampered(r, run="text"), "is refused"),
        (lambda r: tampered(r, run={**r.run, "stage": "moe"}), "another stage"),
        (lambda r: tampered(r, stage=7), "stage is not a line of text"),
        (lambda r: tampered(r, stored="now\nand then"), "stored is not a line of text"),
        (lambda r: tampered(r, path="../other"), "leave the artifact's folder"),
        (lambda r: tampered(r, size=r.size + 1), "its size"),
        (lambda r: tampered(r, tree="0" * 32 + ".dir"), "its tree"),
        (lambda r: tampered(r, files=[]), "no run.json"),
        (lambda r: tampered(r, files=[vars(each) for each in r.files[::-1]]), "not sorted"),
        (lambda r: tampered(r, files=[vars(r.files[0])] * 2), "comes twice"),
        (lambda r: tampered(r, files=[{**vars(each), "size": 1.0} for each in r.files]), "not a size"),
        (lambda r: tampered(r, files=[{**vars(each), "size": True} for each in r.files]), "not a size"),
        (lambda r: tampered(r, files=[{**vars(each), "size": -1} for each in r.files]), "not a size"),
        (lambda r: tampered(r, files=[{**vars(each), "md5": "../x"} for each in r.files]), "not an MD5"),
        (lambda r: tampered(r, files=[{**vars(each), "md5": None} for each in r.files]), "not an MD5"),
        (lambda r: tampered(r, files=[{**vars(each), "sha256": each.md5} for each in r.files]), "not a SHA-256"),
        (lambda r: tampered(r, files=[{"relpath": "run.json"}]), "no 'md5'"),
    ],
)
def test_a_record_that_is_not_whole_or_not_of_its_key_is_refused(store, make_artifact, change, said):
    record = put(store, make_artifact())
    with pytest.raises(RetraceError, match=said):
        parse_record(change(record), KEY)


def test_a_name_that_is_both_file_and_folder_is_refused(store, make_artifact):
    record = put(store, make_artifact())
    files = tuple(sorted((*record.files, FileEntry("model", "0" * 32, 0, "0" * 64)), key=lambda each: each.relpath))
    with pytest.raises(RetraceError, match="model is both a file and a folder"):
        parse_record(replace(record, files=files).to_json(), KEY)


@pytest.mark.parametrize("key", ["../" * 10 + "etc", "A1" * 32, "a1" * 31, ""])
def test_what_is_no_key_is_not_looked_up(store, key):
    with pytest.raises(RetraceError, match="64 hexadecimal digits"):
        store.record(key)


def test_a_bad_record_is_set_aside_and_the_next_run_is_stored(store, make_artifact, capsys):
    artifact = make_artifact()
    put(store, artifact)
    store.path(KEY).write_text('{"format": "ret')
    assert store.record(KEY) is None
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: record {KEY[:12]} of the store is refused")
    assert store.path(KEY).with_suffix(".refused").exists()
    assert store.record(KEY) is None
    assert capsys.readouterr().err == "", "it is said once"
    assert put(store, artifact) == store.record(KEY)


@pytest.mark.parametrize("damage", [b"weighed", b"", None])
def test_nothing_is_restored_of_an_artifact_with_a_bad_object_and_computing_it_again_mends_it(
    store, make_artifact, tmp_path, damage
):
    artifact = make_artifact()
    record = put(store, artifact)
    (weights,) = (each for each in record.files if each.relpath == "model/weights.safetensors")
    store.cache.remove(weights.md5)
    if damage is not None:
        store.cache.path(weights.md5).write_bytes(damage)
    with pytest.raises(ObjectFault):
        store.restore(record, tmp_path / "out" / "run")
    assert list((tmp_path / "out").iterdir()) == []
    assert store.missing(record) == [weights]
    again = make_artifact("again")
    (again / "run.json").write_text(json.dumps({**run_of(again), "seconds": 11.0}))
    assert put(store, again) == record, "the record that others may have stays"
    store.restore(record, tmp_path / "out" / "run")
    assert (tmp_path / "out" / "run" / "model" / "weights.safetensors").read_bytes() == b"weights"


def test_a_sound_object_that_is_not_the_records_file_is_kept_and_the_record_set_aside(store, make_artifact, tmp_path):
    record = put(store, make_artifact())
    forged = replace(record, files=tuple(replace(each, sha256="0" * 64) for each in record.files))
    store.path(KEY).write_text(forged.to_json())
    with pytest.raises(RetraceError, match="is not its file"):
        store.restore(store.record(KEY), tmp_path / "out" / "run")
    assert list((tmp_path / "out").iterdir()) == []
    assert store.record(KEY) is None
    assert store.missing(record) == []


def test_a_record_whose_files_cannot_be_had_again_gives_way_to_a_whole_one(store, make_artifact):
    first = put(store, make_artifact())
    store.cache.remove(next(each.md5 for each in first.files if each.relpath == "run.json"))
    again = make_artifact("again")
    (again / "run.json").write_text(json.dumps({**run_of(again), "seconds": 11.0}))
    second = put(store, again)
    assert second.run["seconds"] == 11.0
    assert store.missing(second) == []


def test_the_first_of_two_records_stays(store, make_artifact):
    first = put(store, make_artifact())
    again = make_artifact("again", weights=b"other weights")
    assert put(store, again) == first
    stranger = put(Store(Cache(CacheSettings(store.root / "other")), store.root), again)
    assert stranger != first
    assert store.add_record(stranger.to_json(), KEY) == first


def test_many_at_once_make_one_whole_record(store, make_artifact):
    artifacts = [make_artifact(f"run{number}", weights=bytes([number]) * 50_000) for number in range(8)]
    stores = [Store(Cache(store.cache.settings), store.root) for _ in artifacts]
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(put, stores, artifacts))
    (record,) = store.records()
    assert set(map(Record.to_json, records)) == {record.to_json()}
    assert store.missing(record) == []
    assert list(store.cache.settings.folder.rglob("*.tmp")) == []


def test_two_that_restore_to_one_place_leave_one_whole_artifact(store, make_artifact, tmp_path):
    record = put(store, make_artifact())
    store.restore(record, tmp_path / "out" / "run")
    with pytest.raises(FileExistsError):
        store.restore(record, tmp_path / "out" / "run")
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["run"]
    store.restore(record, tmp_path / "out" / "run", overwrite=True)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["run"]


@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink"])
def test_a_restored_run_record_is_a_file_of_its_own(store, make_artifact, tmp_path, kind):
    record = put(store, make_artifact())
    linking = Store(Cache(CacheSettings(store.cache.settings.folder, (kind,))), store.root)
    linking.restore(record, tmp_path / "out")
    (tmp_path / "out" / "run.json").write_text("written over")
    assert all(store.cache.is_sound(each.md5) for each in record.files)


@pytest.mark.parametrize("link", ["link", "model/link"])
def test_an_artifact_with_a_link_in_it_is_not_shared(store, make_artifact, capsys, link):
    artifact = make_artifact()
    (artifact / link).symlink_to("/etc")
    assert store.put(artifact, run_of(artifact)) is None
    assert f"{artifact / link} is a link" in capsys.readouterr().err
    assert store.record(KEY) is None


def test_a_full_disk_is_a_warning_and_leaves_no_half_entry(store, make_artifact, small_disk, capsys):
    small_disk(store.cache.settings.folder, "256k")
    artifact = make_artifact(weights=os.urandom(400_000))
    assert store.put(artifact, run_of(artifact)) is None
    (warning,) = capsys.readouterr().err.splitlines()
    for part in ("the result is whole but could not be shared", str(store.cache.settings.folder), "No space left"):
        assert part in warning
    assert store.record(KEY) is None
    assert list(store.cache.settings.folder.rglob("*.tmp")) == []
    assert all(store.cache.is_sound(md5) for md5, _ in store.cache.objects())


def test_a_read_only_store_serves_and_says_what_it_cannot_share(store, make_artifact, read_only, tmp_path, capsys):
    record = put(store, make_artifact())
    damaged = put(store, make_artifact("damaged", key="b2" * 32, weights=b"fragile"))
    (weights,) = (each for each in damaged.files if each.size == len(b"fragile"))
    store.cache.path(weights.md5).chmod(0o644)
    store.cache.path(weights.md5).write_bytes(b"brittle")
    read_only(store.cache.settings.folder)
    store.restore(record, tmp_path / "out")
    store.note_run_id(KEY, "mlflow-1")
    with pytest.raises(ObjectFault):
        store.restore(damaged, tmp_path / "not")
    assert capsys.readouterr().err == ""
    new = make_artifact("new", key="c3" * 32, weights=b"new")
    assert store.put(new, run_of(new)) is None
    warning = capsys.readouterr().err
    assert "could not be shared" in warning
    assert "Read-only file system" in warning


def test_the_id_that_mlflow_knows_a_run_by_goes_into_its_record(store, make_artifact, tmp_path):
    put(store, make_artifact())
    store.note_run_id(KEY, "mlflow-1")
    store.note_run_id("b2" * 32, "mlflow-2")
    record = store.record(KEY)
    assert record.run["mlflow_run_id"] == "mlflow-1"
    store.restore(record, tmp_path / "out")
    assert run_of(tmp_path / "out")["mlflow_run_id"] == "mlflow-1"
    assert len(list(store.records())) == 1


def test_a_hit_counts_as_a_use(store, make_artifact, tmp_path):
    record = put(store, make_artifact())
    os.utime(store.path(KEY), (0, 0))
    store.restore(record, tmp_path / "out")
    assert store.path(KEY).stat().st_mtime > 1e9


def test_the_store_is_where_dvc_is_set_up_and_not_off(tmp_path, monkeypatch):
    monkeypatch.delenv("RETRACE_STORE")
    assert open_store(tmp_path) is None
    (tmp_path / ".dvc").mkdir()
    store = open_store(tmp_path)
    assert store is not None
    assert store.records_folder == tmp_path / ".dvc" / "cache" / "retrace" / "records"
    monkeypatch.setenv("RETRACE_STORE", "off")
    assert open_store(tmp_path) is None
    monkeypatch.setenv("RETRACE_STORE", "on")
    with pytest.raises(RetraceError, match="RETRACE_STORE is 'on': choose one of full, lazy, off"):
        open_store(tmp_path)


def test_asking_the_store_imports_neither_dvc_nor_torch(store, make_artifact, root, tmp_path):
    put(store, make_artifact())
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from pipelines.runs.cache import Cache, CacheSettings, cache_settings\n"
        "from pipelines.runs.store import Store\n"
        f"assert cache_settings(Path({str(root)!r}))\n"
        f"store = Store(Cache(CacheSettings(Path({str(tmp_path / 'cache')!r}))))\n"
        f"store.restore(store.record({KEY!r}), Path({str(tmp_path / 'out')!r}))\n"
        "print(sorted({'dvc', 'dvc_data', 'torch', 'numpy', 'fsspec'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
