"""One process needs one attachment to a store, however many handles arrive in it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from fsexchange import FileConnector, FileKey, Future, Ref, Store, WaitTimeoutError

from .processes import python


def writers(store: Path) -> int:
    return sum(path.is_dir() and len(path.name) == 16 for path in store.iterdir())


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_many_small_refs_do_not_use_up_the_open_files(shm_dir: Path) -> None:
    python("load_many_refs", shm_dir / "store")


def test_refs_share_open_segments_and_directories(shm_dir: Path) -> None:
    with Store(shm_dir / "store") as store:
        keys = store.put_batch([np.arange(n) for n in range(100)])
        refs = [pickle.loads(pickle.dumps(Ref(store, key))) for key in keys]
        before = open_files()
        for n, ref in enumerate(refs):
            assert len(ref.get()) == n
            ref.store.put(n)
        assert open_files() - before <= 1
        assert writers(shm_dir / "store") == 1  # that of the parent's process, which is this one


@pytest.mark.parametrize("close", [True, False])
def test_tasks_that_put_leave_no_directory_each(close: bool, shm_dir: Path) -> None:
    """Each gets the store, makes an object and a future, and drops or closes it."""
    with Store(shm_dir / "store") as store:
        for n in range(200):
            copy = pickle.loads(pickle.dumps(store))
            key = copy.put(n)
            future = copy.future()
            future.set_result(n)
            if close:
                copy.close()
            del copy
            assert store.get(key) == n == store.get(future.ref.key)
        assert writers(shm_dir / "store") == 2


def _put(store: Store) -> FileKey:
    return store.put(os.getpid())


def test_a_pool_leaves_a_directory_a_worker(shm_dir: Path) -> None:
    with Store(shm_dir / "store") as store:
        store.put(0)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            keys = pool.map(_put, [store] * 100, chunksize=1)
            pool.close()
            pool.join()
        assert len(set(keys)) == 100
        assert writers(shm_dir / "store") <= 3


def test_jobs_that_replace_an_object_leave_no_directory_each(shm_dir: Path) -> None:
    for n in range(4):
        python("put_replacing", shm_dir / "store", str(n))
    with Store(shm_dir / "store") as store:
        assert store.get("state") == "3"
        assert writers(shm_dir / "store") == 1
        store.connector.close(clear=True)


def test_threads_that_race_for_the_first_future_are_told_alive(shm_dir: Path) -> None:
    for _ in range(10):
        with Store(shm_dir / "store") as store:
            futures: list[Future[int]] = []
            start = threading.Barrier(4)

            def work(store: Store, start: threading.Barrier, futures: list[Future[int]]) -> None:
                start.wait(30)
                futures.append(store.future())

            threads = [threading.Thread(target=work, args=(store, start, futures)) for _ in "abcd"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            for future in futures:
                with pytest.raises(WaitTimeoutError, match="made the key, is alive"):
                    future.result(timeout=0)


def test_a_connector_that_does_not_trust_reads_what_is_its_users_alone(shm_dir: Path) -> None:
    shm_dir.chmod(0o777)
    with FileConnector(shm_dir / "store", trust_directory=True) as owner:
        careful = FileConnector(shm_dir / "store")
        assert owner.directory.uid == -1
        assert careful.directory.uid == os.geteuid()
        assert careful._shared is not owner._shared
        careful.close()


def test_closing_one_connector_spares_the_others(shm_dir: Path) -> None:
    with FileConnector(shm_dir / "store") as owner:
        others = [FileConnector.from_config(owner.config()) for _ in range(2)]
        keys = others[0].put_batch([b"a", b"b"])
        promise = others[0].new_key()
        assert others[1].get(keys[0]) == b"a"
        others[0].close()
        assert others[1].get(keys[1]) == b"b"
        others[1].set(promise, b"c")
        assert others[1].get(promise) == b"c"
        assert others[1].new_key() != promise
        others[1].close()


@pytest.mark.parametrize("end", ["close", "drop"])
def test_nothing_stays_open_when_the_last_connector_goes(end: str, shm_dir: Path) -> None:
    """Or the file system could not be unmounted."""
    with FileConnector(shm_dir / "store") as owner:
        before = open_files()
        connectors = [FileConnector.from_config(owner.config()) for _ in range(3)]
        key = connectors[0].put_batch([b"a", b"b"])[0]
        for connector in connectors:
            assert connector.get(key) == b"a"
            connector.new_key()
        if end == "close":
            owner.close(clear=False)
            for connector in connectors:
                connector.close()
            before -= 1  # the lock of the owner
        else:
            del connector
            owner.get(key)
            owner.close(clear=False)
            before -= 1
            connectors.clear()
            gc.collect()
        assert open_files() <= before
    FileConnector(shm_dir / "store").close(clear=True)


def test_a_forked_child_has_directories_of_its_own(shm_dir: Path) -> None:
    with Store(shm_dir / "store") as store:
        key = store.put("parent")
        with multiprocessing.get_context("fork").Pool(1) as pool:
            child = pool.apply(_put, (store,))
            pool.close()
            pool.join()
        assert child.filename.split("/")[0] != key.filename.split("/")[0]


def test_a_process_that_puts_seldom_gets_a_new_directory(base_dir: Path) -> None:
    """Cleaners of old files remove directories that nobody writes to."""
    with Store(base_dir / "store") as store:
        for n in range(3):
            key = store.put(n, name="name")
            keys = store.put_batch([n, n])
            assert store.get(key) == store.get("name") == store.get(keys[1]) == n
            store.evict("name")
            store.evict_batch(keys)
            for path in (base_dir / "store").iterdir():
                if path.is_dir():
                    for file in path.iterdir():
                        file.unlink()
                    path.rmdir()


def test_a_process_that_promises_seldom_gets_a_new_directory(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleaners of old files spare the one that is in use, and may have taken it before."""
    monkeypatch.setattr("fsexchange.connector.writers._TOUCH_EVERY", 0.0)
    with Store(base_dir / "store") as store:
        signature = Path(store.connector.path(store.future().ref.key)).with_name(".process")
        os.utime(signature, (0, 0))
        store.future()
        assert signature.stat().st_mtime > 0
        for _ in range(2):
            shutil.rmtree(signature.parent, ignore_errors=True)
            future = store.future()
            future.set_result("set")
            assert future.result(timeout=0) == "set"
