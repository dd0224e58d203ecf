"""Full disks, kills at any system call, owners that leave: nothing half-visible, nobody misled."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fsexchange import FileConnector, FileKey, StoreClosedError

from .processes import ROOT, command, python, small_tmpfs
from .victims import Victims

# Options of a connector that are true; programs take them as the last words of their command line.
OPTIONS: list[list[str]] = [[], ["markers"], ["write_once"]]
IDS = ["rename", "markers", "write_once"]


def test_no_hole_is_reserved_for_which_there_is_no_room(shm_dir: Path) -> None:
    """A reader of it would be killed by SIGBUS."""
    python("reserve_too_much", shm_dir / "small", before=small_tmpfs(shm_dir / "small", 20))


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_full_disk_is_an_error_and_leaves_nothing(options: list[str], shm_dir: Path) -> None:
    python("fill_a_disk", shm_dir / "small", *options, before=small_tmpfs(shm_dir / "small", 40))


def test_no_inodes_left_is_an_error_and_leaves_nothing(shm_dir: Path) -> None:
    """The object fits, its marker does not."""
    before = small_tmpfs(shm_dir / "small", 40)
    before = [word.replace("size=40m", "size=40m,nr_inodes=14") for word in before]
    python("use_up_inodes", shm_dir / "small", before=before)


def test_put_without_inodes_gives_back_what_it_took(shm_dir: Path) -> None:
    before = small_tmpfs(shm_dir / "small", 40)
    before = [word.replace("size=40m", "size=40m,nr_inodes=30") for word in before]
    python("put_without_inodes", shm_dir / "small", before=before)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["put", "set", "replace", "evict", "close"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_kill_at_any_system_call_leaves_the_whole_object_or_none(
    verb: str, options: list[str], victims: Victims, shm_dir: Path
) -> None:
    if verb == "replace" and "write_once" in options:
        pytest.skip("write_once replaces nothing")
    new, before = b"new" * 300, b"before" * 50
    flags: dict[str, Any] = dict.fromkeys(options, True)
    with FileConnector(shm_dir / "store", **flags) as owner:
        key, old = owner.new_key(), owner.new_key()
        owner.set(old, b"before")
        args = (verb, key.filename, old.filename, *options)
        calls = victims.system_calls(shm_dir / "strace.log", "one_verb", shm_dir / "store", *args)
    assert len(calls) >= 1
    outcomes = set()
    for call, occurrence in calls:
        store = shm_dir / f"{call}-{occurrence}"
        # The owner is another process; what the killed one leaves is for it to clear.
        with FileConnector(store, **flags) as owner:
            key, old = owner.new_key(), owner.new_key()
            owner.set(old, before)
            args = (verb, key.filename, old.filename, *options)
            victims.kill(call, occurrence, "one_verb", store, *args)
            try:
                got = (owner.get(key), owner.get(old))
            except StoreClosedError:
                assert verb == "close"
                outcomes.add("closed")
            else:
                assert got[0] in (None, new)
                assert got[1] in {
                    "replace": (before, new) if "markers" not in options else (None, before, new),
                    "evict": (None, before),
                }.get(verb, (before,))
                outcomes.add("after" if got in ((new, before), (None, new)) else "before")
                if verb != "close":
                    assert owner.get(owner.put(b"goes on")) == b"goes on"
                    owner.set(owner.new_key(), b"goes on")
            assert owner.owned or verb == "close"
        # Killed before its very last system call, close leaves an empty directory.
        assert not list(store.rglob("*"))
        assert not store.exists() or (verb, call) == ("close", "rmdir")
    # The kills did hit the verb: before, and where it has several calls, also after its point.
    assert "before" in outcomes


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["put_batch", "evict", "evict_batch", "evict the last", "close"])
def test_kill_at_any_system_call_on_shared_files(
    verb: str, victims: Victims, shm_dir: Path
) -> None:
    """Each object is there or evicted, the others are there, and what is left can be evicted."""
    contents = [bytes([n]) * 3000 for n in range(60)]
    with FileConnector(shm_dir / "store") as owner:
        texts = [str(key) for key in owner.put_batch(contents)]
        args = (verb, *texts)
        calls = victims.system_calls(
            shm_dir / "strace.log", "one_verb_in_segments", shm_dir / "store", *args
        )
    assert len(calls) >= 1
    evictable = {"evict": 1, "evict_batch": 59, "evict the last": 60}.get(verb, 0)
    left = set()
    for call, occurrence in calls:
        store = shm_dir / f"{call}-{occurrence}"
        with FileConnector(store) as owner:
            keys = owner.put_batch(contents)
            args = (verb, *map(str, keys))
            victims.kill(call, occurrence, "one_verb_in_segments", store, *args)
            got = owner.get_batch(keys)
            assert got[evictable:] == contents[evictable:]
            assert [owner.get(key) for key in keys] == got
            for one, content in zip(got, contents, strict=True):
                assert one in (None, content)
            left.add(60 - got.count(None))
            assert owner.get_batch(owner.put_batch([b"goes", b"on"])) == [b"goes", b"on"]
            # What the killed one evicted nobody evicts again, unless that was all.
            there = [key for key, one in zip(keys, got, strict=True) if one is not None]
            owner.evict_batch(there or keys)
            assert not Path(owner.path(keys[0])).exists()
        assert not store.exists()
    assert 60 in left


@pytest.mark.parametrize(
    "verb",
    [
        *("put", "put_batch", "get", "get of 70,000", "get of 1 MiB", "get_part"),
        *("get from a segment", "set", "set once", "exists", "wait", "wait in vain"),
        *("put with markers", "set with markers"),
    ],
)
def test_signal_handler_that_raises_in_a_verb_leaves_nothing(verb: str, shm_dir: Path) -> None:
    """No descriptor, file or mapping, at whatever moment it raises, and its exception comes out.

    Between the end of a verb and its caller nobody can help, which is too short to be hit here.
    """
    done = python("raise_in_a_verb", shm_dir / "store", verb, "2000")
    raised, *left = map(int, done.stdout.split())
    assert raised > 100
    assert max(left) <= raised / 500
    assert done.stderr == ""


def test_an_os_error_of_a_signal_handler_is_not_taken_for_one_of_the_file_system(
    shm_dir: Path,
) -> None:
    def handler(*_: object) -> None:
        raise TimeoutError("the handler's own")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with FileConnector(shm_dir / "store") as connector:
            key = connector.put(b"an object")

            def get_until(seconds: float) -> None:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                for _ in range(1_000_000):
                    assert connector.get(key) == b"an object"

            for _ in range(300):
                with pytest.raises(OSError, match="the handler's own"):
                    get_until(1e-6 + 4e-5 * random.random())
    finally:
        signal.signal(signal.SIGALRM, before)


def test_signal_handler_that_raises_in_a_replacing_put_leaves_one_object(shm_dir: Path) -> None:
    """The name has the old object or the new one, and the other is gone."""
    done = python("raise_in_a_replacing_put", shm_dir / "store", "2000")
    raised, lost, *left = map(int, done.stdout.split())
    assert raised > 100
    assert lost == 0
    assert max(left) <= raised / 500
    assert done.stderr == ""


def test_kill_of_a_writer_in_mid_put(shm_dir: Path) -> None:
    """Half a gigabyte, killed while the file grows."""
    with FileConnector(shm_dir / "store") as owner:
        kept = owner.put(b"kept")
        writer = subprocess.Popen(
            command("put_a_gibibyte", shm_dir / "store"), stdout=subprocess.PIPE, cwd=ROOT
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            sizes = [p.stat().st_size for p in (shm_dir / "store").glob("*/0")]
            if max(sizes) > 1 << 20:
                break
        writer.kill()
        out, _ = writer.communicate()
        assert out == b"", "the writer was faster than the kill"
        assert owner.get(kept) == b"kept"
        assert owner.get(owner.put(b"goes on")) == b"goes on"
    assert not (shm_dir / "store").exists()


def test_writers_cannot_outrun_the_owner_that_clears(shm_dir: Path) -> None:
    """Four of them put without a pause and look at nothing: they hear of the end all the same."""
    owner = FileConnector(shm_dir / "store")
    clones = [FileConnector.from_config(owner.config()) for _ in range(4)]
    ends: list[object] = []

    def put(clone: FileConnector) -> None:
        try:
            while True:
                clone.put(b"mine")
        except BaseException as error:
            ends.append(type(error))

    threads = [threading.Thread(target=put, args=(clone,), daemon=True) for clone in clones]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    owner.close()
    for thread in threads:
        thread.join()
    assert ends == [StoreClosedError] * 4
    assert not (shm_dir / "store").exists()


def test_owner_leaves_while_others_put_and_get(shm_dir: Path) -> None:
    """An error that says so, never None, in every verb of every attached connector."""
    for _ in range(10):
        owner = FileConnector(shm_dir / "store")
        keys = owner.put_batch([b"%d" % n for n in range(50)])
        clones = [FileConnector.from_config(owner.config()) for _ in range(4)]
        results: list[str] = []

        def use(clone: FileConnector, n: int, keys: list[FileKey], results: list[str]) -> None:
            try:
                while True:
                    if n % 2:
                        mine = clone.put(b"mine")
                        assert clone.get(mine) == b"mine", "None"
                    for number, key in enumerate(keys):
                        assert clone.get(key) == b"%d" % number, "None"
            except StoreClosedError:
                results.append("StoreClosedError")
            except BaseException as error:
                results.append(repr(error))

        threads = [
            threading.Thread(target=use, args=(clone, n, keys, results), daemon=True)
            for n, clone in enumerate(clones)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        owner.close()
        for thread in threads:
            thread.join()
        assert results == ["StoreClosedError"] * 4
        assert not (shm_dir / "store").exists(), list((shm_dir / "store").rglob("*"))
