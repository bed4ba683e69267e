"""The same commands over SSH and S3: what is sent is fetched, damage is found by reading, and old artifacts go."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.team import contents, harm, make_artifact, object_of, record_of, run_of, store_of
from tests.workflow.s3_server import BUCKET, S3Server, s3_server

GROWN = "results/growth/stack/default/seed0"
SCRATCH = "results/growth/scratch/default/seed0"
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    pytest.importorskip("dvc_s3", reason="no dvc-s3 here: pip install dvc-s3 to try an S3 remote")
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def ssh(tmp_path_factory) -> Iterator[tuple[int, Path]]:
    """A server of one's own on a free port of 127.0.0.1: (port, private key that opens it)."""
    pytest.importorskip("dvc_ssh", reason="no dvc-ssh here: pip install dvc-ssh to try an SSH remote")
    if SSHD is None:
        pytest.skip("no sshd here: install openssh-server to try an SSH remote")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(SSHD_CONFIG.format(port=port, folder=folder), encoding="utf-8")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-f", folder / "config", "-E", folder / "log"])
    try:
        wait_for(port, server, folder / "log")
        yield port, folder / "user_key"
    finally:
        server.terminate()
        server.wait(timeout=10)


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        if server.poll() is not None:
            pytest.skip(f"sshd does not run here: {log.read_text(encoding='utf-8')}")
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("sshd does not listen after 10 s")


@pytest.fixture(params=["s3", "ssh"])
def far(request, alice, bob, tmp_path) -> str:
    """Alice and Bob with a remote on another machine, as far as anyone can tell; its url."""
    if request.param == "s3":
        url = f"s3://{BUCKET}/{tmp_path.name}"
        option = f"endpointurl = {request.getfixturevalue('s3').url}"
    else:
        port, key = request.getfixturevalue("ssh")
        url = f"ssh://127.0.0.1:{port}{tmp_path / 'far'}"
        option = f"keyfile = {key}"
    for checkout in (alice, bob):
        # Not in git, where nobody wants the place of a key.
        local = f"[core]\n    remote = far\n['remote \"far\"']\n    url = {url}\n    {option}\n"
        (checkout / ".dvc" / "config.local").write_text(local, encoding="utf-8")
    return url


def test_what_one_shares_another_fetches(far, alice, bob, tmp_path, store_command):
    assert f"to far ({far})" in store_command(alice, "share").stdout
    assert store_command(alice, "share").stdout.startswith(f"nothing to do: far ({far}) has all there is here, 11")
    store_command(bob, "fetch", GROWN)
    store_of(bob).restore(record_of(alice, GROWN), tmp_path / "restored")
    (tmp_path / "restored" / "run.json").write_bytes((alice / GROWN / "run.json").read_bytes())
    assert contents(tmp_path / "restored") == contents(alice / GROWN)
    assert store_command(bob, "fetch").stdout.startswith("fetched 10 records and ")
    status = store_command(bob, "status").stdout
    assert status.endswith(f"remote: far ({far})\n")
    assert status.splitlines()[-2].split()[:6] == ["all", "11", "0", "11", "11", "0"]


def test_damage_is_found_by_reading_it_and_mended(far, alice, bob, tmp_path, store_command, request):
    store_command(alice, "share", GROWN, SCRATCH)
    record = record_of(alice, GROWN)
    # Of the same size, so that nothing but reading it can tell.
    bad = object_of(alice / ".dvc" / "cache", record).read_bytes()[::-1]
    if far.startswith("s3"):
        import boto3

        place = object_of(Path(tmp_path.name), record).as_posix()
        boto3.client("s3", endpoint_url=request.getfixturevalue("s3").url).put_object(
            Bucket=BUCKET, Key=place, Body=bad
        )
    else:
        harm(object_of(tmp_path / "far", record), bad)
    done = store_command(bob, "fetch", "results/growth", check=False)
    assert (done.returncode, "It concerns " + GROWN in done.stderr) == (1, True)
    done = store_command(alice, "verify", "--remote", check=False)
    assert (done.returncode, f"1 object damaged and removed, of {GROWN}" in done.stderr) == (1, True)
    assert store_command(alice, "share", GROWN).stdout.startswith("sent 0 artifacts (1 object, ")
    assert store_command(alice, "verify", "--remote").stdout.endswith("all of it is sound\n")
    store_command(bob, "fetch", "results/growth")
    assert store_of(bob).missing(record) == []


def test_old_artifacts_can_be_collected_there(far, alice, store_command):
    make_artifact(alice / "results" / "old", "0" * 64, "growth", "train")
    assert store_of(alice).put(alice / "results" / "old", run_of(alice / "results" / "old"))
    store_command(alice, "share", "results/old", GROWN)
    done = store_command(alice, "gc", "--remote", "--days", "-1", "--yes")
    assert "keeps 1 for the current tables, 0 published in git, 0 used lately\nfrees 1 record, 3 objects" in done.stdout
    assert store_command(alice, "verify", "--remote").stdout.startswith("checked 1 record and 4 objects")
