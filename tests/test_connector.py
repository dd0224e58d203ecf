"""The verbs, as one contract over every configuration and file system."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import (
    CorruptObjectError,
    FileConnector,
    FileKey,
    InvalidKeyError,
    KeyExistsError,
    MissingObjectError,
    StoreClosedError,
    StoreError,
    WaitTimeoutError,
)

from .processes import ROOT, command, python, strace
from .test_keys import BAD

CONFIGS: dict[str, dict[str, Any]] = {
    "rename": {},
    "markers": {"markers": True},
    "write_once": {"write_once": True},
    "markers-write_once": {"markers": True, "write_once": True},
}


@pytest.fixture(params=list(CONFIGS.values()), ids=list(CONFIGS))
def connector(request: pytest.FixtureRequest, base_dir: Path) -> Iterator[FileConnector]:
    with FileConnector(base_dir / "store", **request.param) as connector:
        yield connector
    assert not (base_dir / "store").exists()


SIZES = [0, 1, 1000, 70_000, 1 << 20, (3 << 20) + 7]


class TestContract:
    @pytest.mark.parametrize("size", SIZES)
    def test_get_returns_what_was_put(self, connector: FileConnector, size: int) -> None:
        content = os.urandom(size)
        key = connector.put(content)
        assert key.nbytes == size
        assert connector.exists(key)
        assert connector.get(key) == content
        assert connector.get(FileKey(key.filename)) == content

    @pytest.mark.parametrize("size", SIZES)
    def test_get_returns_what_was_set(self, connector: FileConnector, size: int) -> None:
        content = os.urandom(size)
        key = connector.new_key()
        assert not connector.exists(key)
        assert connector.get(key) is None
        connector.set(key, [content[:10], content[10:]])
        assert connector.exists(key)
        assert connector.get(key) == content

    def test_a_reserved_object_is_filled(self, connector: FileConnector) -> None:
        key = connector.reserve(b"head", 12)
        assert connector.get(key) == b"head" + bytes(8)
        connector.fill(key, [(8, b"last"), (4, b"next")])
        assert connector.get(key) == b"headnextlast"

    @pytest.mark.parametrize(
        ("nbytes", "error"),
        [(2.5, TypeError), (-1, StoreError), ((1 << 64) + 5, StoreError)],
        ids=["no number", "negative", "too large"],
    )
    def test_nothing_is_left_of_what_cannot_be_reserved(
        self, connector: FileConnector, nbytes: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            connector.reserve(b"head", nbytes)
        assert not list(Path(connector.store_dir).glob("*/[0-9]*"))

    def test_batches_keep_their_order(self, connector: FileConnector) -> None:
        objs: list[Any] = [b"one", [b"tw", b"o"], b"", bytes(2 << 20)]
        keys = connector.put_batch(objs)
        connector.evict(keys[0])
        assert connector.get_batch(keys) == [None, b"two", b"", bytes(2 << 20)]
        assert not connector.put_batch([])
        assert not connector.get_batch([])

    def test_a_batch_that_fails_leaves_nothing(self, connector: FileConnector) -> None:
        kept = connector.put(b"kept")
        with pytest.raises(TypeError):
            connector.put_batch([b"one", b"two", "three"])  # type: ignore[list-item]
        (writer,) = Path(connector.store_dir).glob("[0-9a-f]*")
        left = {path.name.partition(".")[0] for path in writer.iterdir()}
        assert left - {""} == {kept.filename.partition("/")[2]}

    def test_evicted_is_gone_and_evicting_again_is_no_error(self, connector: FileConnector) -> None:
        for key in (connector.put(b"x"), connector.new_key()):
            connector.evict(key)
            connector.evict(key)
            assert connector.get(key) is None
            assert not connector.exists(key)

    def test_what_is_got_is_ones_own(self, connector: FileConnector) -> None:
        for size in (10, 2 << 20):
            key = connector.put(bytes(size))
            mine, other = connector.get(key), connector.get(key)
            assert mine is not None
            memoryview(mine)[:] = b"\x01" * size
            assert other == connector.get(key) == bytes(size)

    def test_a_mapping_outlives_eviction_and_store(self, connector: FileConnector) -> None:
        content = os.urandom(2 << 20)
        got = connector.get(key := connector.put(content))
        connector.evict(key)
        connector.close()
        assert got == content

    def test_second_set(self, connector: FileConnector) -> None:
        key = connector.new_key()
        connector.set(key, b"first")
        if connector.write_once:
            with pytest.raises(KeyExistsError) as caught:
                connector.set(key, b"the second")
            assert caught.value.path.endswith(key.filename)
            assert connector.get(key) == b"first"
        else:
            connector.set(key, b"the second")
            assert connector.get(key) == b"the second"

    def test_set_over_a_put_object_is_read_whole_by_the_old_key(
        self, connector: FileConnector
    ) -> None:
        key = connector.put(b"[1, 2, 3]")
        if connector.write_once:
            with pytest.raises(KeyExistsError):
                connector.set(key, b"[1, 2, 3, 4]")
            assert connector.get(key) == b"[1, 2, 3]"
            return
        for content in (b"[1, 2, 3, 4]", b"[]", bytes(2 << 20)):
            connector.set(key, content)
            assert connector.get(key) == content

    def test_set_under_a_plain_name(self, connector: FileConnector) -> None:
        key = FileKey("mesh-coarse.v2")
        assert connector.get(key) is None
        connector.set(key, b"content")
        assert connector.get(key) == b"content"
        assert (Path(connector.store_dir) / "mesh-coarse.v2").read_bytes() == b"content"

    @pytest.mark.parametrize("filename", BAD)
    def test_bad_keys_touch_nothing(self, connector: FileConnector, filename: str) -> None:
        outside = Path(connector.store_dir).parent / "x"
        outside.write_bytes(b"mine")
        key = FileKey(filename)
        for verb in (connector.get, connector.exists, connector.evict, connector.wait):
            with pytest.raises(InvalidKeyError):
                verb(key)
        with pytest.raises(InvalidKeyError):
            connector.set(key, b"overwritten")
        assert outside.read_bytes() == b"mine"
        assert os.path.exists("/etc/passwd")

    def test_key_of_another_store_is_missing_and_cannot_be_set(
        self, connector: FileConnector
    ) -> None:
        key = FileKey("00c0ffee00c0ffee/0")
        assert connector.get(key) is None
        assert not connector.exists(key)
        connector.evict(key)
        with pytest.raises(StoreError, match="another store"):
            connector.set(key, b"x")

    def test_wait_returns_when_it_is_set(self, connector: FileConnector) -> None:
        key = connector.new_key()
        timer = threading.Timer(0.1, connector.set, (key, b"late"))
        timer.start()
        connector.wait(key, timeout=30)
        assert connector.get(key) == b"late"
        timer.join()

    def test_wait_tells_what_it_knows(self, connector: FileConnector) -> None:
        start = time.monotonic()
        with pytest.raises(
            WaitTimeoutError,
            match=r"never set.*which made the key, is alive.*owner.*seems to be alive",
        ) as caught:
            connector.wait(connector.new_key(), timeout=0.2)
        assert 0.2 <= time.monotonic() - start < 5
        assert caught.value.timeout == 0.2
        evicted = connector.put(b"x")
        connector.evict(evicted)
        with pytest.raises(MissingObjectError, match="evicted"):
            connector.wait(evicted)
        other = pickle.loads(pickle.dumps(connector))
        key = connector.new_key()
        connector.close()
        with pytest.raises(StoreClosedError):
            other.wait(key, timeout=60)

    def test_two_racing_setters_leave_one_whole_object(self, connector: FileConnector) -> None:
        if connector.markers and not connector.write_once:
            pytest.skip("markers allow one setter at a time")
        for _ in range(20):
            key = connector.new_key()
            contents = [bytes([n]) * 300_000 for n in range(4)]
            lost: list[bytes] = []

            def setter(content: bytes, key: FileKey = key, lost: list[bytes] = lost) -> None:
                try:
                    connector.set(key, content)
                except KeyExistsError:
                    lost.append(content)

            threads = [threading.Thread(target=setter, args=(c,)) for c in contents]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                got = connector.get(key)
                assert got is None or got in contents
            for thread in threads:
                thread.join()
            assert connector.get(key) in contents
            assert len(lost) == (3 if connector.write_once else 0)

    def test_readers_of_a_replaced_object_see_whole_ones(self, connector: FileConnector) -> None:
        if connector.write_once:
            pytest.skip("write_once")
        key = connector.new_key()
        contents = [bytes([n]) * (n * 40_000) for n in range(1, 9)]
        done = threading.Event()

        def setter() -> None:
            for n in range(200):
                connector.set(key, contents[n % 8])
            done.set()

        thread = threading.Thread(target=setter)
        thread.start()
        seen = 0
        while not done.is_set():
            got = connector.get(key)
            # With markers there is a moment without an object between two.
            assert got in contents or (got is None and (connector.markers or not seen))
            seen += got is not None
        thread.join()
        assert connector.get(key) == contents[199 % 8]

    def test_truncated_and_overwritten_objects_are_errors(self, connector: FileConnector) -> None:
        for size in (1000, 2 << 20):
            key = connector.put(bytes(size))
            path = Path(connector.store_dir, key.filename)
            os.truncate(path, size - 1)
            with pytest.raises(CorruptObjectError, match=f"{size - 1} bytes instead of {size}"):
                connector.get(key)
            path.write_bytes(b"longer" * size)
            with pytest.raises(CorruptObjectError):
                connector.get(key)

    @pytest.mark.parametrize("kind", ["put", "set", "in a batch", "large"])
    def test_part_is_there_or_an_error(self, connector: FileConnector, kind: str) -> None:
        content = os.urandom(3 << 20 if kind == "large" else 1000)
        key = {
            "set": lambda: connector.new_key(),
            "in a batch": lambda: connector.put_batch([content, b"next"])[0],
        }.get(kind, lambda: connector.put(content))()
        if kind == "set":
            connector.set(key, content)
        end = len(content)
        for offset, nbytes in [(0, end), (0, 0), (end, 0), (end - 1, 1), (7, end - 20), (99, 99)]:
            part = content[offset : offset + nbytes]
            assert connector.get_part(key, offset, nbytes) == part
            numpys: Any = np.int64(offset), np.int64(nbytes)
            assert connector.get_part(key, *numpys) == part
        far = [(1 << power) + n for power in (20, 31, 47, 62, 63, 64, 70) for n in (-1, 0, 1)]
        beyond = [(end + 1, 0), (end, 1), (end - 1, 2), (7, end), (1 << 62, 1 << 62)]
        beyond += [(at, 1) for at in far if at >= end] + [(1, n) for n in far if n >= end]
        for offset, nbytes in beyond:
            with pytest.raises(CorruptObjectError, match=f"before byte {offset + nbytes}"):
                connector.get_part(key, offset, nbytes)
        for offset, nbytes in [(-1, 1), (1, -1), (-(1 << 70), 1), (-end, end)]:
            with pytest.raises(ValueError, match="no part"):
                connector.get_part(key, offset, nbytes)
        connector.evict(key)
        for offset, nbytes in [(0, 1), *beyond]:
            assert connector.get_part(key, offset, nbytes) is None

    def test_evict_while_another_thread_gets(self, connector: FileConnector) -> None:
        """Never an exception but the documented results: the whole object or None."""
        rounds = 3_000
        content = b"x" * 1000
        keys = iter([connector.put(content) for _ in range(rounds)])
        current = [next(keys)]
        results: dict[str, int] = {"object": 0, "none": 0}
        errors: list[BaseException] = []
        done = threading.Event()

        def reader() -> None:
            try:
                while not done.is_set():
                    got = connector.get(current[0])
                    assert got is None or got == content
                    results["none" if got is None else "object"] += 1
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=reader, daemon=True)
        thread.start()
        for key in keys:
            connector.evict(current[0])
            current[0] = key
        done.set()
        thread.join()
        assert not errors
        assert results["object"] + results["none"] > 100

    def test_many_threads_put_and_get(self, connector: FileConnector) -> None:
        wrong: list[Any] = []

        def work(seed: int) -> None:
            for n in range(100):
                content = b"%d-%d" % (seed, n)
                key = connector.put(content)
                if connector.get(key) != content:
                    wrong.append((seed, n))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_config_and_pickle_attach(self, connector: FileConnector) -> None:
        key = connector.put(b"shared")
        for clone in (
            type(connector).from_config(connector.config()),
            type(connector)(**connector.config()),
            pickle.loads(pickle.dumps(connector)),
        ):
            assert not clone.owned
            assert clone.config() == connector.config()
            assert clone.get(key) == b"shared"
            theirs = clone.put(b"theirs")
            clone.close()
            assert connector.get(key) == b"shared"
            assert connector.get(theirs) == b"theirs"
            with pytest.raises(StoreClosedError, match="was closed"):
                clone.get(key)
            with pytest.raises(StoreClosedError, match="was closed"):
                clone.put(b"x")

    def test_objects_are_private(self, connector: FileConnector) -> None:
        connector.put(b"x")
        connector.set(connector.new_key(), b"x")
        for folder, folders, names in os.walk(connector.store_dir):
            assert all(os.stat(f"{folder}/{name}").st_mode & 0o777 == 0o700 for name in folders)
            assert all(os.stat(f"{folder}/{name}").st_mode & 0o777 == 0o600 for name in names)
        assert os.stat(connector.store_dir).st_mode & 0o777 == 0o700


# ---- processes ----------------------------------------------------------------------------------


def _use_and_close(connector: FileConnector, key: FileKey) -> FileKey:
    """What a worker does: get, put, and close what it was given."""
    assert connector.get(key) == b"for the workers"
    with connector:
        return connector.put(b"from %d" % os.getpid())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pool_of_workers_that_each_use_and_close_it(method: str, shm_dir: Path) -> None:
    with FileConnector(shm_dir / "store") as connector:
        key = connector.put(b"for the workers")
        with multiprocessing.get_context(method).Pool(2) as pool:
            jobs = pool.starmap_async(_use_and_close, [(connector, key)] * 6, chunksize=1)
            keys = jobs.get(timeout=60)  # the job of a worker that dies never ends
            pool.close()
            pool.join()
        assert all(bytes(connector.get(k) or b"").startswith(b"from ") for k in keys)
        assert len({k.filename for k in keys}) == 6
        assert connector.get(key) == b"for the workers"
    assert not (shm_dir / "store").exists()


def test_forked_child_writes_to_its_own_directory_and_clears_nothing(shm_dir: Path) -> None:
    out = python("write_from_a_forked_child", shm_dir / "store").stdout
    assert "owner" in out
    assert not (shm_dir / "store").exists()  # its clean exit without close


def test_puts_racing_with_forks_never_meet(shm_dir: Path) -> None:
    python("put_while_forking", shm_dir / "store")


# ---- owners and clearing -------------------------------------------------------------------------


def test_second_connector_attaches_whichever_is_closed_first(base_dir: Path) -> None:
    first = FileConnector(base_dir / "store")
    second = FileConnector(base_dir / "store")
    assert (first.owned, second.owned) == (True, False)
    key = first.put(b"x")
    second.close()
    assert first.get(key) == b"x"
    third = FileConnector(base_dir / "store")
    assert third.store_id == first.store_id
    first.close()
    assert not (base_dir / "store").exists()
    for use in (
        lambda: third.get(key),
        lambda: third.exists(key),
        lambda: third.put(b"y"),
        lambda: third.new_key(),
        lambda: third.wait(FileKey(key.filename), timeout=60),
        lambda: FileConnector.from_config(third.config()),
    ):
        with pytest.raises(StoreClosedError, match="owner has closed it"):
            use()
    third.evict(key)
    third.close()


def test_a_new_store_in_the_place_of_an_old_one_is_not_the_old_one(base_dir: Path) -> None:
    with FileConnector(base_dir / "store") as old:
        key = old.put(b"x")
        clone = FileConnector.from_config(old.config())
    with FileConnector(base_dir / "store") as new:
        new.put(b"y")
        with pytest.raises(StoreClosedError):
            clone.get(key)
        with pytest.raises(StoreClosedError):
            FileConnector.from_config(old.config())
        clone.close(clear=None)
        assert new.get(key) is None


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_users_own_files_survive_clearing(config: dict[str, Any], base_dir: Path) -> None:
    store = base_dir / "store"
    mine = {
        "results.csv": b"1,2",
        "sub/deep.txt": b"x",
        "0123456789abcdef.txt": b"",
        "a.ready": b"",
    }
    for name, content in mine.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(content)
    store.chmod(0o755)
    connector = FileConnector(store, **config)
    key = connector.put(b"x")
    connector.set(FileKey("plain-name"), b"y")
    (store / key.filename.split("/")[0] / "in-a-writers-directory.txt").write_bytes(b"z")
    with pytest.warns(UserWarning, match="fsexchange did not make") as caught:
        connector.close()
    assert len(caught) == 1
    for name, content in mine.items():
        assert (store / name).read_bytes() == content
    assert (store / key.filename.split("/")[0] / "in-a-writers-directory.txt").exists()
    assert not (store / "plain-name").exists()
    left = {str(p.relative_to(store)) for p in store.rglob("*") if p.is_file()}
    assert left == {*mine, f"{key.filename.split('/')[0]}/in-a-writers-directory.txt"}


def test_users_file_under_a_plain_name_survives_a_refused_set(base_dir: Path) -> None:
    connector = FileConnector(base_dir / "store", write_once=True)
    (base_dir / "store" / "results").write_bytes(b"mine")
    with pytest.raises(KeyExistsError):
        connector.set(FileKey("results"), b"other")
    with pytest.warns(UserWarning, match="not removed"):
        connector.close()
    assert (base_dir / "store" / "results").read_bytes() == b"mine"


def test_late_close_of_a_cleared_store_spares_the_next_one_in_its_place(base_dir: Path) -> None:
    owner = FileConnector(base_dir / "store")
    FileConnector(base_dir / "store").close(clear=True)
    with FileConnector(base_dir / "store") as successor:
        key = successor.put(b"x")
        assert successor.owned
        owner.close()
        assert successor.get(key) == b"x"


def test_what_only_looks_like_a_writers_directory_survives(base_dir: Path) -> None:
    """A user's directory, file and link of sixteen hex digits; and closing does not hang."""
    (base_dir / "elsewhere").mkdir()
    (base_dir / "elsewhere" / "1").write_bytes(b"precious")
    store = base_dir / "store"
    (store / ("1" * 16)).mkdir(parents=True)
    store.chmod(0o700)
    (store / ("1" * 16) / "7").write_bytes(b"mine")
    (store / ("2" * 16)).symlink_to(base_dir / "elsewhere")
    (store / ("3" * 16)).write_bytes(b"mine")
    connector = FileConnector(store)
    connector.put(b"x")
    with pytest.warns(UserWarning, match="1" * 16):
        connector.close()
    assert (base_dir / "elsewhere" / "1").read_bytes() == b"precious"
    assert (store / ("1" * 16) / "7").read_bytes() == b"mine"
    assert sorted(path.name for path in store.iterdir()) == [n * 16 for n in "123"]


def test_closing_and_opening_one_directory_all_the_time(base_dir: Path) -> None:
    """Nobody loses a live store of his own, and no error but StoreClosedError is seen."""
    processes = [
        subprocess.Popen(
            command("open_and_close", base_dir / "store"), stderr=subprocess.PIPE, cwd=ROOT
        )
        for _ in range(3)
    ]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert ends == [(b"", 0)] * 3


def test_plain_name_of_another_store_in_the_same_place_is_not_seen(base_dir: Path) -> None:
    old = FileConnector(base_dir / "store")
    clone = FileConnector.from_config(old.config())
    old.close()
    with FileConnector(base_dir / "store") as new:
        new.set(FileKey("mesh"), b"of another store")
        for verb in (clone.get, clone.exists, clone.evict, clone.wait):
            with pytest.raises(StoreClosedError):
                verb(FileKey("mesh"))
        assert new.get(FileKey("mesh")) == b"of another store"


def test_file_that_a_user_saves_under_an_evicted_plain_name_survives(base_dir: Path) -> None:
    connector = FileConnector(base_dir / "store")
    connector.set(FileKey("result.dat"), b"object")
    connector.evict(FileKey("result.dat"))
    (base_dir / "store" / "result.dat").write_bytes(b"mine")
    with pytest.warns(UserWarning, match="result.dat"):
        connector.close()
    assert (base_dir / "store" / "result.dat").read_bytes() == b"mine"


@pytest.mark.parametrize("markers", [False, True])
@pytest.mark.parametrize("once", [False, True])
def test_plain_names_leave_nothing_behind(once: bool, markers: bool, base_dir: Path) -> None:
    """No notes pile up, and what a user saves under the name later is the user's."""
    store, key = base_dir / "store", FileKey("result.dat")
    owner = FileConnector(store, write_once=once, markers=markers)
    other = FileConnector.from_config(owner.config())
    for n in range(100):
        (owner, other)[n % 2].set(key, b"object")
        (owner, other)[n // 2 % 2].evict(key)
    assert {path.name[:11] for path in store.rglob("*")} == {".fsexchange"}
    (store / "result.dat").write_bytes(b"mine")
    owner.evict(key)  # of a user's file: it was never set
    other.evict(key)
    owner.evict(FileKey("notes.txt"))
    assert (store / "result.dat").read_bytes() == b"mine"
    other.close()
    with pytest.warns(UserWarning, match="result.dat"):
        owner.close()
    assert (store / "result.dat").read_bytes() == b"mine"
    assert os.listdir(store) == ["result.dat"]


def test_racing_set_and_evict_of_a_plain_name_leave_no_users_file(shm_dir: Path) -> None:
    key = FileKey("mesh")
    for _ in range(20):
        with FileConnector(shm_dir / "store") as owner:
            other = FileConnector.from_config(owner.config())

            def work(connector: FileConnector) -> None:
                for _ in range(20):
                    connector.set(key, b"x")
                    connector.evict(key)
                connector.set(key, b"x")

            threads = [threading.Thread(target=work, args=(each,)) for each in (owner, other)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            other.close()
        assert not (shm_dir / "store").exists()


def test_object_that_was_replaced_by_a_longer_one_leaves_no_note(base_dir: Path) -> None:
    with FileConnector(base_dir / "store") as connector:
        for n in range(1, 20):
            key = connector.put(b"x")
            connector.set(key, b"x" * 2 * n)
            assert connector.get(key) == b"x" * 2 * n
            connector.evict(key)
        writer = key.filename.partition("/")[0]
        assert os.listdir(base_dir / "store" / writer) == [".process"]


def test_batches_get_what_a_subclass_gets(shm_dir: Path) -> None:
    class Reversed(FileConnector):
        def get(self, key: FileKey) -> bytes | None:
            data = super().get(key)
            return None if data is None else bytes(data)[::-1]

    with Reversed(shm_dir / "store") as connector:
        key = connector.put(b"abc")
        assert [connector.get(key)] == connector.get_batch([key]) == [b"cba"]


def test_empty_path_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        FileConnector("")


def test_close_overrides(base_dir: Path) -> None:
    kept = FileConnector(base_dir / "kept")
    key = kept.put(b"x")
    kept.close(clear=False)
    kept.close()
    with FileConnector(base_dir / "kept") as later:
        assert not later.owned
        assert later.get(key) == b"x"
    assert (base_dir / "kept").exists()
    anyone = FileConnector(base_dir / "kept")
    anyone.close(clear=True)
    anyone.close(clear=True)
    assert not (base_dir / "kept").exists()


def test_clear_false_is_kept_by_everyone_and_by_exit(shm_dir: Path) -> None:
    key = python("keep_a_store", shm_dir / "store").stdout
    connector = FileConnector(shm_dir / "store")  # clear=True, but not ours to clear
    assert connector.get(FileKey.parse(key)) == b"for hours"
    connector.close()
    assert (shm_dir / "store").exists()


@pytest.mark.parametrize(
    ("end", "status"), [("return", 0), ("exit", 3), ("raise", 1), ("delete", 0)]
)
def test_owner_that_ends_without_close_clears(end: str, status: int, shm_dir: Path) -> None:
    done = python("end_without_close", shm_dir / "store", end, check=False)
    assert done.returncode == status, done.stderr
    assert "AssertionError" not in done.stderr
    assert not (shm_dir / "store").exists()


def _own_a_store(path: str) -> None:
    FileConnector(path).put(b"x")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child_of_multiprocessing_that_owns_clears_at_its_end(method: str, shm_dir: Path) -> None:
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=_own_a_store, args=(str(shm_dir / "store"),))
    child.start()
    child.join()
    assert child.exitcode == 0
    child.close()
    assert not (shm_dir / "store").exists()


@pytest.mark.parametrize("program", ["end_before_a_child", "end_before_a_grandchild"])
def test_children_that_the_exit_joins_still_have_the_store(program: str, shm_dir: Path) -> None:
    """A script that ends without joining its processes: Python joins them in an exit handler."""
    assert "still there" in python(program, shm_dir / "store").stdout
    assert not any((shm_dir / "store").glob("*"))


def test_name_is_not_used_before_its_object_is_there(shm_dir: Path) -> None:
    """On NFS an early look would hide the object from this host for as long as mounts cache."""
    log = shm_dir / "strace.log"
    before = strace("-qq", "-e", "trace=file", "-o", str(log))
    name = python("look_before_it_is_set", shm_dir / "store", before=before).stdout.strip()
    calls = log.read_text()
    assert f'{os.path.dirname(name)}"' in calls  # it was listed
    assert f'{name}"' not in calls


def test_relative_path_outlives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with FileConnector("deep/er/store") as connector:
        key = connector.put(b"x")
        monkeypatch.chdir("/")
        assert connector.get(key) == b"x"
    assert not (tmp_path / "deep/er/store").exists()
