"""Whose a store is: trust, ownership, dead owners, clearing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fsexchange import FileConnector, FileKey, StoreError, UntrustedDirectoryError
from fsexchange.connector import owner as owner_module
from fsexchange.connector.owner import Life, Owner, silence

from .processes import ROOT, command, python, unprivileged

# ---- trust --------------------------------------------------------------------------------------


def test_directory_that_is_a_file_is_refused(base_dir: Path) -> None:
    (base_dir / "store").write_bytes(b"mine")
    for path in (base_dir / "store", base_dir / "store" / "below"):
        with pytest.raises(StoreError, match=r"[Nn]ot a directory"):
            FileConnector(path)
    assert (base_dir / "store").read_bytes() == b"mine"


def test_symlink_is_refused_unless_trusted(base_dir: Path) -> None:
    (base_dir / "real").mkdir(mode=0o700)
    (base_dir / "link").symlink_to("real")
    (base_dir / "dangling").symlink_to("nowhere")
    with pytest.raises(UntrustedDirectoryError, match=r"symbolic link.*; pass the directory that"):
        FileConnector(base_dir / "link")
    with pytest.raises(UntrustedDirectoryError, match="symbolic link"):
        FileConnector(base_dir / "dangling")
    assert not (base_dir / "nowhere").exists()
    with FileConnector(base_dir / "link", trust_directory=True) as connector:
        assert connector.get(connector.put(b"x")) == b"x"
    assert not list((base_dir / "real").iterdir())


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o1777])
def test_directory_writable_by_others_is_refused_unless_trusted(mode: int, base_dir: Path) -> None:
    (base_dir / "store").mkdir()
    (base_dir / "store").chmod(mode)
    with pytest.raises(UntrustedDirectoryError, match=f"{mode:04o}.*chmod 700"):
        FileConnector(base_dir / "store")
    assert not list((base_dir / "store").iterdir())
    with FileConnector(base_dir / "store", trust_directory=True) as connector:
        clone = FileConnector.from_config(connector.config())
        assert clone.get(connector.put(b"x")) == b"x"
        del clone


def test_directory_of_another_user_is_refused_unless_trusted(shm_dir: Path) -> None:
    """A process of another user; without root's help, one looks at root's own directories."""
    uid = unprivileged()
    theirs: Path = shm_dir / "store" if uid is not None else Path("/usr")
    shm_dir.chmod(0o755)
    theirs.mkdir(exist_ok=True)
    python("open_anothers_directory", theirs, uid=uid)


def test_unwritable_directory_and_parent_say_so(shm_dir: Path) -> None:
    uid = unprivileged()
    shm_dir.chmod(0o755)
    (shm_dir / "store").mkdir(mode=0o700)
    if uid is not None:
        os.chown(shm_dir / "store", uid, uid)
    python("use_without_permission", shm_dir, uid=uid)


# ---- owners that die ----------------------------------------------------------------------------


def _owner(store: Path) -> tuple[subprocess.Popen[str], FileKey]:
    process = subprocess.Popen(
        command("own_until_killed", store), stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    key = FileKey.parse(process.stdout.readline())
    process.stdout.close()
    return process, key


def test_killed_owners_store_is_adopted_with_its_objects(base_dir: Path) -> None:
    process, key = _owner(base_dir / "store")
    attached = FileConnector(base_dir / "store")
    assert not attached.owned  # its owner lives
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie is dead, too
    assert attached.get(key) == b"left behind"
    with FileConnector(base_dir / "store") as heir:
        assert heir.owned
        assert heir.store_id == attached.store_id
        assert heir.get(key) == b"left behind"
        assert attached.get(key) == b"left behind"
        assert not FileConnector(base_dir / "store").owned
    assert not (base_dir / "store").exists()
    process.wait()


def test_terminated_owner_leaves_a_store_to_adopt(base_dir: Path) -> None:
    process, key = _owner(base_dir / "store")
    process.send_signal(signal.SIGTERM)
    process.wait()
    with FileConnector(base_dir / "store", clear=False) as heir:
        assert heir.owned
    with FileConnector(base_dir / "store") as later:  # the heir chose to keep it
        assert later.get(key) == b"left behind"
    assert (base_dir / "store").exists()


def test_time_out_tells_that_the_owner_is_gone(base_dir: Path) -> None:
    process, _ = _owner(base_dir / "store")
    attached = FileConnector(base_dir / "store")
    process.kill()
    process.wait()
    with pytest.raises(TimeoutError, match=rf"owner, process {process.pid} on .* is gone"):
        attached.wait(attached.new_key(), timeout=0.01)


@pytest.mark.parametrize("text", ["", "null", "[1, 2]", "{}", '{"pid": 5}', "\xff"])
def test_time_out_with_what_is_no_signature(text: str, base_dir: Path) -> None:
    with FileConnector(base_dir / "store") as connector:
        key = connector.new_key()
        (base_dir / "store" / key.filename).with_name(".process").write_text(text)
        with pytest.raises(TimeoutError, match="within 0 s; the store's owner"):
            connector.wait(key, timeout=0)


def _adopt(path: str, start: Any, results: Any) -> None:
    start.wait(60)  # when one of them dies, the others end, too
    connector = FileConnector(path)
    results.put((connector.owned, connector.store_id))
    start.wait(60)  # nobody ends before everybody has opened
    connector.close(clear=False)


def test_owner_held_for_dead_leaves_the_store_to_its_heir(base_dir: Path) -> None:
    owner = FileConnector(base_dir / "store")
    record = base_dir / "store" / ".fsexchange"
    mine = Owner.from_json(record.read_text())
    heir = mine.process._replace(pid=mine.process.pid + 1, host="elsewhere")
    record.write_text(mine._replace(process=heir).to_json())  # adopted
    owner.close()
    with FileConnector(base_dir / "store") as attached:
        assert attached.store_id == mine.store_id
        attached.close(clear=True)


def _open_in_six_processes(path: Path) -> tuple[list[bool], set[str]]:
    """Have them open one directory at a time; return which own it, and the stores they see."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(6), context.Queue()
    processes = [context.Process(target=_adopt, args=(str(path), start, results)) for _ in range(6)]
    for process in processes:
        process.start()
    owned, ids = zip(*[results.get(timeout=60) for _ in processes], strict=True)
    for process in processes:
        process.join()
        process.close()
    results.close()
    results.join_thread()
    return list(owned), set(ids)


def test_of_many_heirs_one_adopts(base_dir: Path) -> None:
    for _ in range(5):
        process, _ = _owner(base_dir / "store")
        process.kill()
        process.wait()
        owned, ids = _open_in_six_processes(base_dir / "store")
        assert sum(owned) == 1
        assert len(ids) == 1
        FileConnector(base_dir / "store").close(clear=True)


def test_of_many_creators_one_owns(base_dir: Path) -> None:
    owned, (store_id,) = _open_in_six_processes(base_dir / "store")
    assert sum(owned) == 1
    left = {name for name in os.listdir(base_dir / "store") if name.startswith(".fsexchange-")}
    assert left == {f".fsexchange-{store_id}", ".fsexchange-names"}


def test_owner_killed_while_clearing_is_swept_by_the_next(base_dir: Path) -> None:
    process, key = _owner(base_dir / "store")
    attached = FileConnector(base_dir / "store")
    process.kill()
    process.wait()
    (witness,) = (base_dir / "store").glob(".fsexchange-[0-9a-f]*")
    witness.rename(f"{witness}-ending")  # what clearing does first
    with FileConnector(base_dir / "store") as fresh:
        assert fresh.store_id != attached.store_id
        assert fresh.get(key) is None
        with pytest.raises(StoreError, match="is gone"):
            attached.get(key)


def test_kept_store_whose_clearing_was_killed_can_be_opened(base_dir: Path) -> None:
    FileConnector(base_dir / "store", clear=False).close()
    python("die_while_clearing", base_dir / "store")
    with FileConnector(base_dir / "store") as fresh:
        assert fresh.owned
    assert not (base_dir / "store").exists()


def test_markers_are_asked_for_before_adopting(base_dir: Path) -> None:
    process, _ = _owner(base_dir / "store")
    process.kill()
    process.wait()
    with pytest.raises(StoreError, match="without markers"):
        FileConnector(base_dir / "store", markers=True)


def test_keeping_that_fails_can_be_repeated(shm_dir: Path) -> None:
    python("fail_to_keep", shm_dir / "store")
    assert not FileConnector(shm_dir / "store").owned


@pytest.mark.parametrize("text", ["", '{"store_id":', "[1, 2]", "{}", '{"process": 5}', "null"])
def test_what_is_no_record_is_replaced(text: str, base_dir: Path) -> None:
    """Its writer was killed, or it is something else; objects beside it stay."""
    with FileConnector(base_dir / "store", clear=False) as connector:
        key = connector.put(b"content")
    (base_dir / "store" / ".fsexchange").write_text(text)
    with FileConnector(base_dir / "store") as fresh:
        assert fresh.owned
        assert fresh.store_id == connector.store_id
        assert fresh.get(key) == b"content"
        assert connector.from_config(connector.config()).get(key) == b"content"
    assert not (base_dir / "store").exists()


def test_markers_are_the_stores(base_dir: Path) -> None:
    with FileConnector(base_dir / "with", markers=True) as made:
        attached = FileConnector(base_dir / "with")
        assert attached.markers
        assert attached.get(made.put(b"x")) == b"x"
    with (
        FileConnector(base_dir / "without"),
        pytest.raises(StoreError, match="without markers"),
    ):
        FileConnector(base_dir / "without", markers=True)


# ---- records and hearts --------------------------------------------------------------------------


def test_record_says_who_owns(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with FileConnector(base_dir / "store"):
        record = json.loads((base_dir / "store" / ".fsexchange").read_text())["process"]
    assert record["host"] == socket.gethostname()
    assert record["pid"] == os.getpid()
    assert record["uid"] == os.geteuid()
    assert record["job"] == "4711"


def test_silence_is_measured_by_the_file_systems_clock(tmp_path: Path) -> None:
    record = tmp_path / ".fsexchange"
    record.touch()
    assert silence(str(tmp_path)) < 10
    os.utime(record, (time.time() - 400,) * 2)
    assert 390 < silence(str(tmp_path)) < 500
    os.utime(record, (time.time() + 400,) * 2)  # an owner with another clock
    assert silence(str(tmp_path)) == 0
    assert [path.name for path in tmp_path.iterdir()] == [".fsexchange"]  # the probe is gone


def test_heartbeat_renews_the_record_until_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "HEARTBEAT", 0.01)
    record = tmp_path / ".fsexchange"
    record.touch()
    os.utime(record, (0, 0))
    life = Life(str(tmp_path), network=True)
    assert life.begin()
    deadline = time.monotonic() + 30
    while record.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert record.stat().st_mtime > 0
    life.end()
    time.sleep(0.1)
    os.utime(record, (0, 0))
    time.sleep(0.1)
    assert record.stat().st_mtime == 0
