"""What killed jobs leave is found and removed; what lives, is kept or is another's stays."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import FileConnector, FileKey, Store, StoreError, gc
from fsexchange.filesystem import kinds
from fsexchange.serialize import serialize
from fsexchange.store.leftovers import FoundStore

from .cli import Command, fsexchange
from .jobs import needs_mpi
from .processes import (
    NOBODY,
    ROOT,
    command,
    fork,
    lacking,
    python,
    read_only,
    small_tmpfs,
    unprivileged,
)
from .test_life import end, owner
from .victims import Victims


def leave(store: Path, seen_as: str | None = None) -> None:
    """Make a store whose owner is killed. It may see another kind of file system than is there.

    In a fork: to start Python and import numpy takes a hundred times as long.
    """

    def own() -> None:
        if seen_as is not None:
            kinds._mounted_kind = lambda path: seen_as
        FileConnector(store).put(b"left behind")
        os.kill(os.getpid(), signal.SIGKILL)

    _, status = os.waitpid(fork(own), 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def states(base: Path, **options: Any) -> dict[str, str]:
    """Return the state of each store by its path in `base`."""
    return {os.path.relpath(found.path, base): found.state for found in gc(base, **options)}


def test_dead_stores_go_and_all_others_stay(base_dir: Path) -> None:
    for name in ("a/dead", "fsexchange-0123456789abcdef"):
        leave(base_dir / name)
    FileConnector(base_dir / "kept", clear=False).close()
    (base_dir / "mine").write_text("no store")
    with Store(base_dir / "living" / "store") as store:
        key = store.put([1, 2, 3])
        for remove in (False, True):
            assert states(base_dir, remove=remove) == {
                "a/dead": "dead",
                "fsexchange-0123456789abcdef": "dead",
                "kept": "kept",
                "living/store": "living",
            }
        assert states(base_dir) == {"kept": "kept", "living/store": "living"}
        assert store.get(key) == [1, 2, 3]
    assert sorted(os.listdir(base_dir)) == ["a", "kept", "living", "mine"]


def test_each_store_is_told_with_its_owner_size_and_age(base_dir: Path) -> None:
    process, _ = owner(base_dir / "store")
    end(process)
    (found,) = gc(base_dir)
    assert found.owner is not None
    assert found.owner.pid == process.pid
    assert found.files == 4  # with the record, the witness and a signature
    assert found.nbytes >= 1024
    assert 0 <= found.age < 60
    assert (found.removed, found.partials) == (False, ())
    assert str(process.pid) in found.why


def test_the_users_files_in_a_dead_store_stay_and_are_named(base_dir: Path) -> None:
    (base_dir / "store").mkdir(0o700)
    (base_dir / "store" / "results.csv").write_text("mine")
    leave(base_dir / "store")
    with pytest.warns(UserWarning, match="results.csv"):
        (found,) = gc(base_dir, remove=True)
    assert found.removed
    assert os.listdir(base_dir / "store") == ["results.csv"]


def test_the_store_of_an_owner_that_closed_all_descriptors_stays(base_dir: Path) -> None:
    """As daemons do: its lock is free."""
    done = python("close_all_descriptors_and_wait", base_dir / "store", base_dir)
    assert done.stdout == "unknown\n"
    assert os.listdir(base_dir) == []


def test_a_later_process_that_has_the_pid_of_an_owner_keeps_no_store(base_dir: Path) -> None:
    leave(base_dir / "store")
    record = base_dir / "store" / ".fsexchange"
    fields = json.loads(record.read_text())
    assert fields["process"]["started"].isdecimal()
    fields["process"]["pid"] = os.getpid()
    record.write_text(json.dumps(fields))
    assert states(base_dir, remove=True) == {"store": "dead"}


def test_links_are_not_followed(base_dir: Path) -> None:
    leave(base_dir / "elsewhere" / "store")
    (base_dir / "here").mkdir()
    (base_dir / "here" / "link").symlink_to(base_dir / "elsewhere")
    (base_dir / "here" / "fsexchange-0123456789abcdef").symlink_to(base_dir / "elsewhere" / "store")
    assert gc(base_dir / "here", remove=True) == []
    assert (base_dir / "elsewhere" / "store").exists()


def test_stores_of_other_users_stay(shm_dir: Path) -> None:
    if unprivileged() is None:
        lacking("the right to become another user")
    leave(shm_dir / "fsexchange-0123456789abcdef")
    for path in (shm_dir / "fsexchange-0123456789abcdef").rglob("*"):
        os.chown(path, NOBODY, NOBODY)
    os.chown(shm_dir / "fsexchange-0123456789abcdef", NOBODY, NOBODY)
    for _ in range(2):
        assert states(shm_dir, remove=True) == {"fsexchange-0123456789abcdef": "foreign"}


def test_what_others_may_write_to_is_not_trusted(base_dir: Path) -> None:
    leave(base_dir / "store")
    (base_dir / "store").chmod(0o1777)
    assert states(base_dir, remove=True) == {"store": "unknown"}


def _fifo(record: Path) -> None:
    os.mkfifo(record)


def _nested(record: Path) -> None:
    record.write_text("[" * 100_000)


def _endless(record: Path) -> None:
    record.touch()
    os.truncate(record, 1 << 40)


def _link(record: Path) -> None:
    record.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_fifo, _nested, _endless, _link])
def test_what_a_stranger_puts_in_the_place_of_a_record_stops_nobody(
    make: Callable[[Path], None], shm_dir: Path, command: Command
) -> None:
    """`gc` would wait for the writer of a FIFO, and take a hole of 1 TiB into memory."""
    (shm_dir / "store").mkdir()
    make(shm_dir / "store" / ".fsexchange")
    found = json.loads(command("gc", shm_dir, "--json").text)["stores"]
    assert [each["state"] for each in found] == ["unknown"]
    assert "there is no store" in command("ls", shm_dir / "store", code=5).err


def test_a_store_that_lost_its_record_may_be_kept(base_dir: Path) -> None:
    leave(base_dir / "store")
    (base_dir / "store" / ".fsexchange").unlink()
    assert states(base_dir, remove=True) == {"store": "unknown"}
    for path in (base_dir / "store").glob(".fsexchange*"):
        path.unlink() if path.is_file() else path.rmdir()
    assert states(base_dir, remove=True) == {"store": "unknown"}  # objects are there


@pytest.mark.parametrize("left", [[], [f".{16 * '0'}.tmp"], [".fsexchange"]])
def test_what_killed_makers_leave_goes(left: list[str], base_dir: Path) -> None:
    (base_dir / "store").mkdir(0o1700)
    for name in left:
        (base_dir / "store" / name).touch()
    (base_dir / "a_users").mkdir()
    assert states(base_dir, remove=True) == {"store": "dead"}
    assert os.listdir(base_dir) == ["a_users"]


@pytest.mark.slow
def test_gc_that_is_killed_at_any_system_call_leaves_what_the_next_collects(
    victims: Victims, shm_dir: Path
) -> None:
    base = shm_dir / "store"
    leave(base / "dead")
    calls = victims.system_calls(shm_dir / "log", "collect", base)
    assert len(calls) >= 8
    for call, occurrence in calls[:-1]:
        leave(base / "dead")
        victims.kill(call, occurrence, "collect", base)
        left = (base / "dead").exists()
        assert states(base, remove=True) == ({"dead": "dead"} if left else {}), (call, occurrence)
        assert os.listdir(base) == []


def test_of_many_collectors_one_removes_each_store(shm_dir: Path) -> None:
    for number in range(6):
        leave(shm_dir / str(number))
    processes = [
        subprocess.Popen(
            command("collect", shm_dir, "1"), stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(4)
    ]
    removed = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(removed) == 6
    assert os.listdir(shm_dir) == []


def test_collectors_take_nothing_from_those_who_open_and_clear(shm_dir: Path) -> None:
    """And who are killed: the next adopts the store, or makes another, and loses no object."""
    collector = subprocess.Popen(command("collect", shm_dir, "4"), stdout=subprocess.PIPE, cwd=ROOT)
    users = [
        subprocess.Popen(
            command("open_and_clear_in_turn", shm_dir / "store", "3"),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(2)
    ]
    for number in range(8):
        leave(shm_dir / f"other-{number % 2}")
        with FileConnector(shm_dir / f"other-{number % 2}") as heir:
            assert heir.get(heir.put(b"x")) == b"x"
    for user in users:
        cycles, lost = map(int, user.communicate(timeout=60)[0].split())
        assert user.returncode == 0
        assert cycles > 5
        assert lost == 0
    collector.communicate(timeout=60)
    assert collector.returncode == 0
    assert states(shm_dir, remove=True) == {}


# ---- where the owner sees a network file system -------------------------------------------------


def on_a_network(store: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command("own_as_on_a_network", store),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture(params=["fuse.bindfs", "ext4"])
def seen_as(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have this process see one kind of file system; the owner sees a network's."""
    kind: str = request.param
    monkeypatch.setattr(kinds, "_mounted_kind", lambda path: kind)
    return kind


def write_record(store: Path, silent: float, **process: Any) -> None:
    """Make the owner of a store one of another host, kernel or time, silent for so many seconds."""
    record = store / ".fsexchange"
    fields = json.loads(record.read_text())
    fields["process"].update(process)
    record.write_text(json.dumps(fields))
    for path in (record, *store.glob(".fsexchange-????????????????")):
        os.utime(path, (time.time() - silent,) * 2)


@pytest.mark.usefixtures("seen_as")
def test_the_free_pid_of_an_owner_of_this_kernel_proves_it_dead(shm_dir: Path) -> None:
    process = on_a_network(shm_dir / "store")
    try:
        assert states(shm_dir, remove=True) == {"store": "living"}
        write_record(shm_dir / "store", 10 * 86400)  # it was stopped
        assert states(shm_dir, remove=True) == {"store": "dead"}
        assert (shm_dir / "store").exists() is False  # by its silence
    finally:
        process.kill()
        process.communicate()
    leave(shm_dir / "store", seen_as="fuse.bindfs")
    assert states(shm_dir, remove=True) == {"store": "dead"}
    assert os.listdir(shm_dir) == []


_HOST = os.uname().nodename


@pytest.mark.usefixtures("seen_as")
@pytest.mark.parametrize(
    ("silent", "process", "state"),
    [
        (100, {"boot": "another"}, "living"),
        (400, {"boot": "another"}, "dead"),  # this host has booted since
        (100, {"boot": "another", "host": "other"}, "living"),
        (80_000, {"boot": "another", "host": "other"}, "unknown"),
        (90_000, {"boot": "another", "host": "other"}, "dead"),
        (80_000, {"pids": "another"}, "unknown"),  # in a container
        (80_000, {"boot": "", "pids": ""}, "unknown"),  # of an earlier version
        (90_000, {"boot": "", "pids": ""}, "dead"),
    ],
)
def test_what_is_proven_by_silence(
    silent: float, process: dict[str, str], state: str, shm_dir: Path
) -> None:
    leave(shm_dir / "store", seen_as="fuse.bindfs")
    write_record(shm_dir / "store", silent, **process)
    assert states(shm_dir, remove=True) == {"store": state}
    assert (shm_dir / "store").exists() is (state != "dead")


def test_who_uses_a_store_of_a_silent_owner_keeps_it(shm_dir: Path) -> None:
    leave(shm_dir / "store", seen_as="fuse.bindfs")
    write_record(shm_dir / "store", 90_000, boot="", pids="")
    with pytest.warns(UserWarning, match="has been silent"):
        FileConnector(shm_dir / "store").close()
    (found,) = gc(shm_dir, remove=True)
    assert found.state == "unknown"
    assert "another process used it" in found.why


def test_the_lock_of_an_owner_on_another_host_is_not_seen(
    shm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(shm_dir / "store")  # its owner saw a local file system: it serves this one, say
    monkeypatch.setattr(kinds, "_mounted_kind", lambda path: "nfs4")
    write_record(shm_dir / "store", 90_000)
    assert states(shm_dir, remove=True) == {"store": "unknown"}


@pytest.mark.parametrize("left", ["ending", "no witness"])
def test_half_cleared_and_half_made_stores_between_hosts_are_dead_once_they_are_old(
    left: str, shm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(shm_dir / "store", seen_as="fuse.bindfs")
    (witness,) = (shm_dir / "store").glob(".fsexchange-????????????????")
    if left == "ending":
        witness.rename(f"{witness}-ending")
    else:
        witness.unlink()
        write_record(shm_dir / "store", 0, host="other")
    monkeypatch.setattr(kinds, "_mounted_kind", lambda path: "nfs4")
    if left == "ending":
        assert states(shm_dir, remove=True) == {"store": "unknown"}
        os.utime(shm_dir / "store", (time.time() - 90_000,) * 2)
    else:
        write_record(shm_dir / "store", 90_000, host="other", boot="another")
    assert states(shm_dir, remove=True) == {"store": "dead"}
    assert os.listdir(shm_dir) == []


def test_a_limit_below_what_a_sign_of_life_may_take_is_refused(shm_dir: Path) -> None:
    with pytest.raises(ValueError, match="pass that or more"):
        gc(shm_dir, older_than=299)


def test_a_directory_that_is_not_there_is_an_error(shm_dir: Path) -> None:
    with pytest.raises(StoreError, match="there is no directory"):
        gc(shm_dir / "none")


# ---- partial files ------------------------------------------------------------------------------


def test_what_a_writer_left_that_was_killed_in_mid_put_goes(shm_dir: Path) -> None:
    with Store(shm_dir / "store") as store:
        kept = store.put(np.ones(1 << 16))
        writer = subprocess.Popen(
            command("put_a_large_array", shm_dir / "store"), stdout=subprocess.PIPE, cwd=ROOT
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            sizes = [p.stat().st_size for p in (shm_dir / "store").glob("*/0")]
            if max(sizes) > 1 << 20:
                break
        assert all(one.nbytes == 0 for one in gc(shm_dir)[0].partials)  # it is just being written
        writer.kill()
        out, _ = writer.communicate()
        assert out == b"", "the writer was faster than the kill"
        (one,) = gc(shm_dir, remove=True)[0].partials
        assert not one.removed
        assert "written to less than" in one.why
        make_old(Path(one.path))
        for remove in (False, True):
            (found,) = gc(shm_dir, remove=remove)
            assert found.state == "living"
            (one,) = found.partials
            assert (one.dead, one.removed) == (True, remove)
            assert one.nbytes > 1 << 20
        assert gc(shm_dir)[0].partials == ()
        assert store.get(kept).sum() == 1 << 16


@pytest.fixture
def kept(base_dir: Path) -> Path:
    """The directory of a writer in a kept store."""
    store = Store(base_dir / "store", clear=False)
    key = store.put(np.ones(1 << 16))
    store.close()
    return base_dir / "store" / os.path.dirname(key.filename)


def half(path: Path) -> None:
    whole = b"".join(bytes(frame) for frame in serialize(np.ones(1000)))
    path.write_bytes(whole[: len(whole) // 2])


def make_old(path: Path) -> None:
    os.utime(path, (time.time() - 400,) * 2)


def only(found: list[FoundStore]) -> FoundStore:
    (one,) = found
    return one


@pytest.mark.parametrize("name", ["7", f".{16 * '0'}.tmp", "7.16"])
def test_half_an_object_goes_once_nobody_has_it_open_to_write(name: str, kept: Path) -> None:
    half(kept / name) if "16" not in name else (kept / name).write_bytes(bytes(4500))
    make_old(kept / name)
    with open(kept / name, "ab"):
        assert only(gc(kept.parent, remove=True)).partials == ()
    (one,) = only(gc(kept.parent, remove=True)).partials
    assert one.removed
    assert not (kept / name).exists()
    assert only(gc(kept.parent)).partials == ()


def test_a_whole_file_that_is_not_in_place_stays_as_its_writer_may_live(kept: Path) -> None:
    temporary = kept / f".{16 * '0'}.tmp"
    temporary.write_bytes(b"any bytes, of a connector's user")
    (one,) = only(gc(kept.parent, remove=True)).partials
    assert (one.dead, one.removed) == (False, False)
    assert "cannot be known" in one.why
    os.link(temporary, kept / "8")  # as a writer does; it was killed just then
    (one,) = only(gc(kept.parent, remove=True)).partials
    assert one.removed
    assert (kept / "8").read_bytes() == b"any bytes, of a connector's user"
    assert not temporary.exists()


def test_objects_of_connectors_are_no_partial_files(kept: Path) -> None:
    connector = FileConnector(kept.parent, clear=False)
    connector.put(b"")
    connector.put(b"\x93FSX" + bytes(20))  # whatever its user means by it
    connector.put_batch([b"x"] * 100)
    connector.set(connector.new_key(), b"x")
    connector.close()
    for path in kept.parent.glob("*/*"):
        make_old(path)
    assert not any(one.dead for one in only(gc(kept.parent, remove=True)).partials)


@pytest.mark.parametrize("markers", [False, True])
def test_pieces_of_an_object_that_a_connector_has_put_stay(markers: bool, base_dir: Path) -> None:
    """Each begins as an object does, or as a `.npy` file does, that is longer."""
    with io.BytesIO() as file:
        np.save(file, np.ones(1000))
        wholes = [file.getvalue(), b"".join(map(bytes, serialize(np.ones(1000))))]
    connector = FileConnector(base_dir / "store", clear=False, markers=markers)
    keys = [connector.put(whole[:4096]) for whole in wholes]
    keys += [connector.new_key(), FileKey("plain")]
    for key in keys[2:]:
        connector.set(key, wholes[1][:100])
    for key in keys:
        make_old(Path(connector.path(key)))
    assert only(gc(base_dir, remove=True)).partials == ()
    assert all(map(connector.exists, keys))
    connector.close(clear=True)


@pytest.mark.parametrize("kind", ["npy", "bytes", "pipe"])
def test_what_is_left_of_a_file_that_was_half_put_goes(kind: str, base_dir: Path) -> None:
    Store(base_dir / "store", clear=False).close()
    if kind == "npy":
        np.save(base_dir / "file.npy", np.ones(1 << 22))
    else:
        (base_dir / "file.npy").write_bytes(bytes(1 << 25))
    victim = subprocess.Popen(
        command("put_half_a_file", base_dir / "store", base_dir / "file.npy", kind),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert victim.communicate(timeout=60)[0] == b""
    assert victim.returncode == -signal.SIGKILL
    (path,) = (base_dir / "store").glob("*/0")
    assert (1 << 24) < path.stat().st_size < 1 << 25
    make_old(path)
    (one,) = only(gc(base_dir, remove=True)).partials
    assert one.removed
    assert not path.exists()


def test_an_object_without_its_marker_is_found(base_dir: Path) -> None:
    connector = FileConnector(base_dir / "store", clear=False, markers=True)
    key = connector.put(b"x")
    connector.close()
    assert only(gc(base_dir)).partials == ()
    (base_dir / "store" / f"{key.filename}.ready").unlink()
    (one,) = only(gc(base_dir, remove=True)).partials
    assert (one.dead, "no marker" in one.why) == (False, True)


# ---- the command --------------------------------------------------------------------------------


def test_the_command_lists_and_removes(shm_dir: Path) -> None:
    leave(shm_dir / "dead")
    FileConnector(shm_dir / "kept", clear=False).close()
    shown = fsexchange("gc", shm_dir)
    assert re.search(rb"^dead +[0-9.]+ KiB +4 ", shown.stdout, re.MULTILINE)
    assert b"the kernel has freed the lock of process" in shown.stdout
    assert b"1 dead store" in shown.stderr
    (dead, kept) = json.loads(fsexchange("gc", shm_dir, "--yes", "--json").stdout)["stores"]
    assert (dead["store"], dead["state"], dead["removed"]) == (str(shm_dir / "dead"), "dead", True)
    assert sorted(dead["owner"]) == ["host", "job", "pid", "uid"]
    assert (kept["state"], kept["removed"], kept["partial"]) == ("kept", False, [])
    assert os.listdir(shm_dir) == ["kept"]
    assert b"nothing was removed" in fsexchange("gc", shm_dir, "--yes").stderr


def test_the_command_refuses_what_is_no_time(shm_dir: Path, command: Command) -> None:
    for text in ("10x", "", "-1d", "10"):
        assert "--older-than" in command("gc", shm_dir, "--older-than", text, code=2).err
    assert "nothing is proven dead" in command("gc", shm_dir, "--older-than", "12h").err


def test_of_several_directories_one_that_is_not_there_hides_nothing(shm_dir: Path) -> None:
    leave(shm_dir / "dead")
    done = fsexchange("gc", "--yes", shm_dir, shm_dir / "none", shm_dir / "dead", code=1)
    assert re.search(b"^removed .*/dead$", done.stdout, re.MULTILINE)
    told, error = done.stderr.decode().splitlines()
    assert "removed 1 dead store" in told
    assert f"no directory {shm_dir / 'none'} " in error
    assert "no directory" in fsexchange("gc", shm_dir / "none", code=1).stderr.decode()


def test_names_reach_a_terminal_as_text(shm_dir: Path) -> None:
    """A stranger may have chosen them, and they may be of any bytes."""
    for name in (b"\x1b[31mred\nline", b"\xff"):
        (shm_dir / os.fsdecode(name) / ".fsexchange-names").mkdir(parents=True)
    shown = fsexchange("gc", shm_dir, env={"PYTHONIOENCODING": "utf-8:strict"}).stdout.decode()
    assert f"{shm_dir}/\\x1b[31mred\\nline\n" in shown
    assert f"{shm_dir}/\\udcff\n" in shown


def test_what_cannot_be_removed_is_a_failure(shm_dir: Path) -> None:
    leave(shm_dir / "dead")
    before = read_only(shm_dir)
    done = fsexchange("gc", shm_dir, "--yes", before=before, code=1)
    assert b"read-only" in done.stdout.lower()
    assert b"nothing was removed" in done.stderr


@needs_mpi
def test_default_stores_of_a_killed_job_go_without_a_directory_being_named(shm_dir: Path) -> None:
    """In a /dev/shm and a directory for temporary files of its own: others' tests leave stores."""
    (shm_dir / "tmp").mkdir()
    script = (
        f"{sys.executable} -m tests.programs.leave_after_scancel && find /dev/shm -size +1M && "
        f"{sys.executable} -m fsexchange gc --yes --json && ls -A /dev/shm/fsexchange-* 2>&1"
    )
    before = small_tmpfs(shm_dir, 2048)
    before = [word.replace(str(shm_dir), "/dev/shm") for word in before]
    done = subprocess.run(
        [*before, "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": "/dev/shm", "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    print(done.stdout, done.stderr)
    assert "/dev/shm/fsexchange-" in done.stdout
    assert '"removed": true' in done.stdout, done.stderr
    assert "No such file" in done.stdout
