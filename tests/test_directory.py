"""Whose a store is: trust, ownership, dead owners, clearing."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fsexchange import (
    FileConnector,
    FileKey,
    Store,
    StoreClosedError,
    StoreError,
    UntrustedDirectoryError,
)
from fsexchange.connector import life as life_module
from fsexchange.connector.life import Life, silence
from fsexchange.connector.owner import Owner
from fsexchange.connector.trust import trusted_uid

from .clients import remember_missing_names
from .processes import ROOT, command, lacking, python, read_only, unprivileged

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


def test_files_of_others_are_refused_where_they_can_swap_the_directory(shm_dir: Path) -> None:
    """A parent that others may write to: they rename the store, and put theirs in its place."""
    uid = unprivileged()
    if uid is None:
        lacking("root, to be two users")
        return
    shm_dir.chmod(0o777)
    with Store(shm_dir / "store") as store:
        key = store.put("mine", name="name")
        stored: list[FileKey | str] = [key, FileKey(key.filename), "name"]
        assert [store.get(each) for each in stored] == ["mine", "mine", "mine"]
        stored.append(store.put_batch([1, 2])[0])  # it would stay open, and be ours
        clone = pickle.loads(pickle.dumps(store))
        os.rename(shm_dir / "store", shm_dir / "away")
        shutil.copytree(shm_dir / "away", shm_dir / "store")
        for path in (shm_dir / "store").rglob("*"):
            os.chown(path, uid, uid)
        for each in stored:
            for reader in store, clone:
                with pytest.raises(UntrustedDirectoryError, match="put another directory"):
                    reader.get(each)
        with pytest.raises(UntrustedDirectoryError, match="put another directory"):
            store.connector.get_part(key, 0, 1)
        shutil.rmtree(shm_dir / "store")
        os.rename(shm_dir / "away", shm_dir / "store")
        assert store.get(key) == "mine"


def test_links_that_others_can_swap_are_as_directories_that_they_can_swap(shm_dir: Path) -> None:
    (shm_dir / "mine" / "store").mkdir(parents=True)
    (shm_dir / "theirs").mkdir()
    (shm_dir / "theirs" / "link").symlink_to(shm_dir / "mine")
    (shm_dir / "indirect").symlink_to("theirs/../theirs/link")
    for path in "mine", "theirs/link", "indirect":
        assert trusted_uid(str(shm_dir / path / "store"), trust=False) == -1
    (shm_dir / "theirs").chmod(0o777)
    for path in "theirs/link", "indirect":
        assert trusted_uid(str(shm_dir / path / "store"), trust=False) == os.geteuid()
    assert trusted_uid(str(shm_dir / "mine" / "store"), trust=False) == -1
    (shm_dir / "0").symlink_to("theirs/link")
    for n in range(30):  # the kernel follows 40
        (shm_dir / f"{n + 1}").symlink_to(f"{n}")
    assert trusted_uid(str(shm_dir / "30" / "store"), trust=False) == os.geteuid()
    (shm_dir / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        trusted_uid(str(shm_dir / "loop" / "store"), trust=False)


@pytest.mark.parametrize(("mode", "swappable"), [(0o755, False), (0o775, True), (0o1777, False)])
def test_which_parents_let_others_swap_the_directory(
    mode: int, swappable: bool, shm_dir: Path
) -> None:
    (shm_dir / "parent" / "store").mkdir(parents=True)
    (shm_dir / "parent").chmod(mode)
    uid = trusted_uid(str(shm_dir / "parent" / "store"), trust=False)
    assert uid == (os.geteuid() if swappable else -1)
    assert trusted_uid(str(shm_dir / "parent" / "store"), trust=True) == -1


# ---- who deletes what ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["open", "close"])
def test_who_wants_a_store_kept_has_it_kept(way: str, base_dir: Path) -> None:
    """A second opener's `clear=False` counts, though the owner was made with `clear=True`."""
    owner = FileConnector(base_dir / "store")
    other = FileConnector(base_dir / "store", clear=way == "close")
    key = other.put(b"for later")
    other.close(clear=False if way == "close" else None)
    owner.close()
    owner.close()
    with FileConnector(base_dir / "store") as later:
        assert not later.owned
        assert later.get(key) == b"for later"
        later.close(clear=True)
    assert not (base_dir / "store").exists()


def test_store_kept_by_a_second_process_outlives_its_owners_exit(base_dir: Path) -> None:
    owner, key = _owner(base_dir / "store")
    FileConnector(base_dir / "store").close(clear=False)
    owner.terminate()
    owner.wait()
    assert owner.stdout is not None
    owner.stdout.close()
    with FileConnector(base_dir / "store") as later:
        assert not later.owned
        assert later.get(key) is not None
        later.close(clear=True)


def test_store_at_the_variable_is_kept_for_who_asks(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = FileConnector(base_dir / "store")
    monkeypatch.setenv("FSEXCHANGE_STORE", str(base_dir / "store"))
    with Store(clear=False) as store:
        key = store.put("for later")
    owner.close()
    with Store() as store:
        assert store.get(key) == "for later"
        store.connector.close(clear=True)


def test_wish_that_comes_too_late_is_refused(base_dir: Path) -> None:
    with FileConnector(base_dir / "store") as owner:
        late = FileConnector.from_config(owner.config())
        closed = FileConnector.from_config(owner.config())
        closed.close()
    closed.close(clear=False)  # closed already
    with pytest.raises(StoreClosedError):
        late.close(clear=False)
    late.close()
    with FileConnector(base_dir / "store") as connector:
        with pytest.raises(ValueError, match="pass it to the FileConnector"):
            Store(connector, clear=False)
        FileConnector(base_dir / "store", store_id=connector.store_id, clear=False).close()
        key = connector.put(b"kept")
    with FileConnector(base_dir / "store") as later:
        assert later.get(key) == b"kept"
        later.close(clear=True)


def test_store_at_the_variable_publishes_as_its_owner_does(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileConnector(base_dir / "store", markers=True) as owner:
        monkeypatch.setenv("FSEXCHANGE_STORE", str(base_dir / "store"))
        with Store() as store:
            assert owner.exists(store.put(1))


def test_default_store_where_names_cannot_be_listed(shm_dir: Path) -> None:
    uid = unprivileged()
    shm_dir.chmod(0o755)
    (shm_dir / "base").mkdir()
    (shm_dir / "base").chmod(0o1733)
    if uid is None:
        (shm_dir / "base").chmod(0o300)
    out = python(
        "find_a_default_directory", uid=uid, env={"FSEXCHANGE_DIR": str(shm_dir / "base")}
    ).stdout
    assert out.startswith(str(shm_dir / "base"))
    (shm_dir / "base").chmod(0o700)


def test_link_to_nothing_and_a_path_too_long_say_so_at_once(base_dir: Path) -> None:
    (base_dir / "link").symlink_to("nowhere")
    with pytest.raises(StoreError, match="link to nothing"):
        FileConnector(base_dir / "link", trust_directory=True)
    with pytest.raises(StoreError, match="shorter path"):
        FileConnector(base_dir / "/".join(["x" * 200] * 19))


def test_private_store_on_a_read_only_mount_can_be_read(base_dir: Path) -> None:
    with FileConnector(base_dir / "store") as owner:
        key = owner.put(b"content")
        before = read_only(base_dir / "store")
        python("read_by_a_key", base_dir / "store", str(key), before=before)
        assert owner.get(key) == b"content"
    owner = FileConnector(base_dir / "store")
    key = owner.put(b"content")
    life = owner.directory._life
    assert life is not None
    life.end()  # as if it had been killed: nobody can adopt it there
    python("read_by_a_key", base_dir / "store", str(key), before=before)
    owner.close()


def test_directory_that_was_there_before_stays(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job's working directory is; only what was made goes."""
    (base_dir / "store").mkdir()
    with Store(base_dir / "store") as store:
        store.put(1, name="one")
    assert os.listdir(base_dir / "store") == []
    monkeypatch.chdir(base_dir / "store")
    with Store(".") as store:
        store.put(1)
    assert os.getcwd() == str(base_dir / "store")


def test_store_dropped_without_close_warns(base_dir: Path) -> None:
    stores = [Store(base_dir / "store")]
    key = stores[0].put(1)
    hold = stores[0].connector.directory
    with pytest.warns(ResourceWarning, match="dropped and not closed"):
        stores.clear()
    with FileConnector(base_dir / "store") as other:
        assert not other.owned
        assert other.get(key) is not None
    hold.clear()  # as at the end of the process
    assert not (base_dir / "store").exists()


def test_witness_that_a_cleaner_took_is_made_again(base_dir: Path) -> None:
    """By whoever misses it: a long job does not lose its store."""
    with Store(base_dir / "store") as store:
        key = store.put("content", name="name")
        clone = pickle.loads(pickle.dumps(store))
        for reader in store, clone:
            (witness,) = (base_dir / "store").glob(".fsexchange-????????????????")
            witness.unlink()
            assert reader.get("name") == "content"
            assert witness.exists()
            assert pickle.loads(pickle.dumps(reader)).get(key) == "content"


@pytest.mark.parametrize("clear", [True, False])
def test_store_that_lost_record_and_witness_says_so_and_is_cleared(
    clear: bool, base_dir: Path
) -> None:
    """A cleaner of old files took both of them while the store was open."""
    with FileConnector(base_dir / "store", clear=clear) as owner:
        key = owner.put(b"content")
        clone = FileConnector.from_config(owner.config())
        for path in (base_dir / "store").glob(".fsexchange*"):
            if path.is_file():
                path.unlink()
        for connector in owner, clone:
            assert connector.get(key) == b"content"
            with pytest.raises(StoreClosedError, match="has lost .* open it again by its path"):
                connector.set(FileKey("name"), b"x")
        if not clear:
            with FileConnector(base_dir / "store", clear=False) as again:
                assert again.get(key) == b"content"
            again.close(clear=True)
            with pytest.raises(StoreClosedError, match="its owner has closed it"):
                clone.set(FileKey("name"), b"x")
    assert not (base_dir / "store").exists()


def test_store_that_ended_elsewhere_is_closed_where_opening_asks_nobody(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GlusterFS opens a file that is gone for up to a second more, and says so when it is used."""
    with FileConnector(base_dir / "store") as owner:
        key = owner.put(b"x")
        clone = FileConnector.from_config(owner.config())
        owner.evict(key)
        assert clone.get(key) is None

        def stale(fd: int) -> None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", stale)
            patch.setattr(
                "fsexchange.filesystem.kinds._mounted_kind", lambda path: "fuse.glusterfs"
            )
            with pytest.raises(StoreClosedError):
                clone.get(key)


def test_store_that_ended_elsewhere_is_closed_where_the_client_remembers_it(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GlusterFS shows the witness for a second more, and its directories are stale meanwhile."""
    with Store(base_dir / "store") as owner:
        clone = pickle.loads(pickle.dumps(owner))
        (witness,) = (base_dir / "store").glob(".fsexchange-????????????????")

        def stale(path: str) -> None:
            threading.Timer(0.5, witness.rename, (f"{witness}-ending",)).start()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        with monkeypatch.context() as patch:
            patch.setattr(
                "fsexchange.filesystem.kinds._mounted_kind", lambda path: "fuse.glusterfs"
            )
            patch.setattr(os, "listdir", stale)
            with pytest.raises(StoreClosedError):
                clone.get("name")
        Path(f"{witness}-ending").rename(witness)


def test_directory_that_was_looked_for_too_early_is_found(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program looks whether its directory is there, and then gets the store from another host."""
    path = base_dir / "parent" / "store"
    with FileConnector(path) as owner:
        config = owner.config()
        with monkeypatch.context() as patch:
            remember_missing_names(patch)
            (base_dir / "parent").rename(base_dir / "later")
            assert not os.path.exists(path)  # Path.exists calls no os.stat before 3.12
            assert not os.path.exists(path.parent)
            (base_dir / "later").rename(base_dir / "parent")
            with pytest.raises(FileNotFoundError):
                os.stat(path)
            FileConnector.from_config(config).close()
            (base_dir / "parent").rename(base_dir / "later")
            assert not os.path.exists(path)
            (base_dir / "later").rename(base_dir / "parent")
            FileConnector(path).close()


def test_opening_makes_a_store_look_used(base_dir: Path) -> None:
    """To cleaners, which go by the latest of all times of a file."""
    FileConnector(base_dir / "store", clear=False).close()
    files = [path for path in (base_dir / "store").iterdir() if path.is_file()]
    assert len(files) == 2
    for path in files:
        os.utime(path, (1, 1))
    FileConnector(base_dir / "store").close()
    for path in files:
        assert path.stat().st_atime > 1
    FileConnector(base_dir / "store").close(clear=True)


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


@pytest.mark.slow
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
        assert connector.from_config(fresh.config()).get(key) == b"content"
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
    monkeypatch.setattr(life_module, "HEARTBEAT", 0.01)
    record = tmp_path / ".fsexchange"
    record.touch()
    os.utime(record, (0, 0))
    life = Life(str(tmp_path), 16 * "0", network=True)
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
