"""DVC's cache without DVC: the same settings, places, links and lists of files; and no way to write into it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from pipelines.runs.cache import (
    CHUNK,
    OBJECT_MODE,
    Cache,
    CacheSettings,
    FileEntry,
    ObjectFault,
    cache_settings,
    file_md5,
)
from pipelines.runs.errors import RetraceError

LEVELS = ("system", "global", "repo", "local")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(CacheSettings(tmp_path / "cache"))


def of_type(cache: Cache, *link_types: str) -> Cache:
    return Cache(CacheSettings(cache.settings.folder, link_types))


def put(cache: Cache, folder: Path, text: str = "weights") -> FileEntry:
    file = folder / "artifact" / "weights"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return cache.add(file)


@pytest.fixture
def configure(tmp_path: Path, monkeypatch):
    """Write DVC's configuration: ``configure(repo="[cache]\\n...", local=...)``; returns the repository."""
    root = tmp_path / "repository"
    places = {
        "system": tmp_path / "system" / "config",
        "global": tmp_path / "global" / "config",
        "repo": root / ".dvc" / "config",
        "local": root / ".dvc" / "config.local",
    }
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(places["system"].parent))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(places["global"].parent))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def configure(**levels: str) -> Path:
        assert set(levels) <= set(LEVELS)
        (root / ".dvc").mkdir(parents=True, exist_ok=True)
        for level, text in levels.items():
            places[level].parent.mkdir(parents=True, exist_ok=True)
            places[level].write_text(text, encoding="utf-8")
        return root

    return configure


@pytest.mark.parametrize(
    "levels",
    [
        {},
        {"repo": "[core]\n    analytics = false\n"},
        {"repo": "[cache]\n    dir = ../../shared/cache\n"},
        {"repo": "[cache]\n    dir = /srv/shared # the group's\n    shared = group\n"},
        {"local": "[cache]\n    dir = ~/cache\n    type = hardlink\n"},
        {"repo": "[cache]\n    type = reflink,hardlink,copy\n"},
        {"repo": '[cache]\n    type = "symlink, copy"\n'},
        {"repo": "['remote \"origin\"']\n    url = s3://bucket\n[Cache]\n    Type = copy\n    shared = Group\n"},
        {"global": "[cache]\n    dir = here\n    type = symlink\n", "repo": "[cache]\n    type = hardlink,copy\n"},
        {"system": "[cache]\n    dir = there\n", "local": "[cache]\n    shared = group\n"},
        {
            "system": "[cache]\n    type = copy\n",
            "global": "[cache]\n    type = hardlink\n",
            "repo": "[cache]\n    dir = a\n",
            "local": "[cache]\n    dir = b\n",
        },
    ],
)
def test_every_level_of_the_configuration_is_read_as_dvc_reads_it(configure, levels):
    from dvc.config import Config

    root = configure(**levels)
    theirs = Config(str(root / ".dvc"))["cache"]
    ours = cache_settings(root)
    assert ours is not None
    assert str(ours.folder) == theirs.get("dir", str(root / ".dvc" / "cache"))
    kinds = theirs.get("type", ["reflink", "copy"])
    assert ours.link_types == tuple(kind.strip() for kind in (kinds.split(",") if isinstance(kinds, str) else kinds))
    assert ours.group_shared == ("shared" in theirs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[cache]\n    type = teleport\n", r"cache\.type is teleport: choose among reflink, hardlink, symlink, copy"),
        ("[cache]\n    shared = world\n", r"cache\.shared is 'world'"),
        ("[cache]\n    dir = s3://bucket\n", "say `dvc cache dir FOLDER`"),
        ("[cache]\n    local = disk\n", r"cache\.local is obsolete"),
        ("[cache\n", "config: not a configuration DVC can read"),
    ],
)
def test_what_dvc_would_refuse_is_refused_by_name(configure, text, said):
    with pytest.raises(RetraceError, match=said):
        cache_settings(configure(repo=text))


def test_without_dvc_there_is_no_cache(tmp_path):
    assert cache_settings(tmp_path) is None


def test_an_object_is_where_dvc_puts_it_and_read_only(cache, tmp_path):
    from dvc_data.hashfile.db import get_odb
    from dvc_objects.fs import LocalFileSystem

    entry = put(cache, tmp_path)
    file = tmp_path / "artifact" / "weights"
    assert entry == FileEntry("weights", file_md5(file), 7, hashlib.sha256(file.read_bytes()).hexdigest())
    theirs = get_odb(LocalFileSystem(), str(cache.objects_folder))
    assert str(cache.path(entry.md5)) == theirs.oid_to_path(entry.md5)
    assert stat.S_IMODE(cache.path(entry.md5).stat().st_mode) == OBJECT_MODE == theirs.CACHE_MODE
    assert list(theirs.all()) == [entry.md5] == [md5 for md5, _ in cache.objects()]
    assert theirs.check(entry.md5).size == entry.size


def test_an_object_in_use_again_is_as_new_and_not_written_twice(cache, tmp_path):
    path = cache.path(put(cache, tmp_path).md5)
    os.utime(path, (0, 0))
    inode = path.stat().st_ino
    put(cache, tmp_path)
    assert path.stat().st_ino == inode
    assert path.stat().st_mtime > 1e9


@pytest.mark.parametrize("damage", ["weighed", "", "weights and more"])
def test_a_damaged_object_is_replaced_when_its_file_comes_again(cache, tmp_path, damage):
    entry = put(cache, tmp_path)
    cache.path(entry.md5).unlink()
    cache.path(entry.md5).write_text(damage)
    assert not cache.is_sound(entry.md5)
    put(cache, tmp_path)
    assert cache.is_sound(entry.md5)
    assert stat.S_IMODE(cache.path(entry.md5).stat().st_mode) == OBJECT_MODE


def test_an_object_that_cannot_be_written_leaves_nothing(cache, tmp_path, monkeypatch):
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfile", full)
    monkeypatch.setattr("fcntl.ioctl", lambda *_: full())
    with pytest.raises(OSError, match="No space left"):
        put(cache, tmp_path)
    assert [path for path in cache.objects_folder.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink", "reflink"])
def test_a_restored_file_has_the_bytes_and_no_way_into_the_cache(cache, tmp_path, kind):
    entry = put(cache, tmp_path)
    to = tmp_path / "restored"
    of_type(cache, kind).restore(entry, to)
    assert to.read_text() == "weights"
    if kind == "hardlink":
        assert to.samefile(cache.path(entry.md5))
    if kind == "symlink":
        assert to.readlink() == cache.path(entry.md5)
    shared = to.samefile(cache.path(entry.md5))
    assert stat.S_IMODE(to.stat().st_mode) == (OBJECT_MODE if shared else 0o666 & ~umask())
    # As artifacts are changed here: by a new file under the old name.
    (tmp_path / "new").write_text("changed")
    (tmp_path / "new").replace(to)
    assert cache.is_sound(entry.md5)


def umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def test_the_first_link_type_that_works_is_taken_and_copying_always_works(cache, tmp_path, monkeypatch):
    entry = put(cache, tmp_path)
    tried = []

    def refused(number: int):
        def link(self: Path, *_: object) -> None:
            tried.append(number)
            raise OSError(number, os.strerror(number))

        return link

    monkeypatch.setattr(Path, "hardlink_to", refused(errno.EXDEV))
    monkeypatch.setattr(Path, "symlink_to", refused(errno.EPERM))
    both = of_type(cache, "hardlink", "symlink")
    for name in ("one", "two"):
        both.restore(entry, tmp_path / name)
        assert (tmp_path / name).read_text() == "weights"
    assert tried == [errno.EXDEV, errno.EPERM], "what failed for the first file is not tried for the second"
    monkeypatch.setattr(Path, "hardlink_to", refused(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        of_type(cache, "hardlink").restore(entry, tmp_path / "three")


@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink"])
@pytest.mark.parametrize("damage", ["weighed", "", None])
def test_a_missing_or_damaged_object_is_no_file_and_is_removed(cache, tmp_path, kind, damage):
    entry = put(cache, tmp_path)
    cache.path(entry.md5).unlink()
    if damage is not None:
        cache.path(entry.md5).write_text(damage)
    with pytest.raises(ObjectFault) as fault:
        of_type(cache, kind).restore(entry, tmp_path / "restored")
    assert (fault.value.md5, fault.value.kind) == (entry.md5, "missing" if damage is None else "damaged")
    assert not (tmp_path / "restored").is_symlink()
    assert not (tmp_path / "restored").exists()
    assert not cache.path(entry.md5).exists()


@pytest.mark.parametrize("size", [0, CHUNK - 1, CHUNK, 3 * CHUNK + 7])
def test_a_file_of_any_number_of_chunks_is_copied_and_its_every_chunk_verified(cache, tmp_path, size):
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(size))
    entry = cache.add(file)
    of_type(cache, "copy").restore(entry, tmp_path / "restored")
    assert (tmp_path / "restored").read_bytes() == file.read_bytes()
    for place in {size // 2, size - 1} if size else ():
        damaged = bytearray(file.read_bytes())
        damaged[place] ^= 1
        cache.path(entry.md5).unlink(missing_ok=True)
        cache.path(entry.md5).write_bytes(damaged)
        with pytest.raises(ObjectFault, match="damaged"):
            of_type(cache, "copy").restore(entry, tmp_path / "another")
        assert not (tmp_path / "another").exists()


def test_a_group_shares_folders_that_its_members_may_write_to(tmp_path):
    cache = Cache(CacheSettings(tmp_path / "cache", group_shared=True))
    path = cache.path(put(cache, tmp_path).md5)
    for folder in (path.parent, cache.objects_folder, cache.settings.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o2775
    assert stat.S_IMODE(path.stat().st_mode) == OBJECT_MODE


def test_strange_files_in_the_cache_are_no_objects(cache, tmp_path):
    entry = put(cache, tmp_path)
    for name in (f".{entry.md5[2:]}.123.tmp", "short", f"{entry.md5[2:]}.unpacked"):
        (cache.path(entry.md5).parent / name).touch()
    tree = cache.add_tree(b"[]")
    assert sorted(cache.objects()) == sorted([(entry.md5, 7), (tree, 2)])
