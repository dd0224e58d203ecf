"""Blank: an array that many processes fill, that nobody reads before it is sealed."""

from __future__ import annotations

import os
import pickle
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import (
    Blank,
    FileConnector,
    KeyExistsError,
    MissingObjectError,
    Store,
    StoreClosedError,
    StoreError,
)

from .processes import fork, python, small_tmpfs, strace

CONFIGS: list[dict[str, Any]] = [{}, {"markers": True}, {"write_once": True}]


@pytest.fixture(params=CONFIGS, ids=["rename", "markers", "write_once"])
def store(request: pytest.FixtureRequest, base_dir: Path) -> Any:
    with Store(FileConnector(base_dir / "store", **request.param)) as store:
        yield store


def objects(store: Store) -> list[str]:
    """Return the names of the files of objects, without markers."""
    found = Path(store.store_dir).glob("*/[0-9]*")
    return sorted(path.name for path in found if path.suffix != ".ready")


def test_what_is_written_is_read_once_it_is_sealed(store: Store) -> None:
    blank = store.blank((4, 3), "i2")
    copy: Blank = pickle.loads(pickle.dumps(blank))
    assert len(pickle.dumps(blank)) < 500
    assert (copy.shape, copy.dtype) == ((4, 3), np.dtype("i2"))
    blank[0] = 1
    copy[1:3] = [[2, 3, 4], [5, 6, 7]]
    ref = copy.seal()
    expected = [[1, 1, 1], [2, 3, 4], [5, 6, 7], [0, 0, 0]]
    got = ref.get()
    assert got.dtype == "i2"
    assert got.tolist() == np.asarray(blank).tolist() == expected
    assert blank[1].tolist() == [2, 3, 4]
    assert blank.seal() == ref == pickle.loads(pickle.dumps(copy)).seal()
    got[:] = 9
    assert store.get(ref).tolist() == expected
    assert np.load(store.connector.path(ref.key)).tolist() == expected
    assert len(objects(store)) == 1


def test_nobody_reads_before_it_is_sealed_or_writes_after(store: Store) -> None:
    blank = store.blank(10)
    blank[:] = 1
    for read in (lambda: blank[0], lambda: np.asarray(blank), lambda: list(blank)):  # type: ignore[call-overload]
        with pytest.raises(MissingObjectError, match="not sealed, .* `seal`"):
            read()
    with pytest.raises(MissingObjectError):
        blank[2:4] += 1
    ref = blank.seal()
    for index in (0, slice(None), ...):
        with pytest.raises(KeyExistsError, match="is sealed"):
            blank[index] = 2
    assert ref.get().tolist() == [1] * 10


def test_evicted_is_gone(store: Store) -> None:
    for sealed in (False, True):
        blank = store.blank((2, 2))
        if sealed:
            blank.seal()
        blank.evict()
        blank.evict()
        assert objects(store) == []
        with pytest.raises(MissingObjectError, match="was evicted"):
            blank[0] = 1
        with pytest.raises(MissingObjectError, match="was evicted"):
            blank.seal()
        with pytest.raises(MissingObjectError):
            np.asarray(blank)


@pytest.mark.parametrize("dtype", ["f8", ">i2", "?", "c16", "M8[us]", "S5", "U3", "i4,(2,)f4"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (1, 4), (2, 3, 4), (3, 1, 2, 2)])
def test_parts_are_assigned_as_numpy_does(dtype: str, shape: Any, shm_dir: Path) -> None:
    generator = random.Random(f"{dtype}{shape}")
    kind = np.dtype(dtype)

    def values(shape: tuple[int, ...]) -> Any:
        count = int(np.prod(shape))
        data = [generator.randrange(2) for _ in range(count * kind.itemsize)]
        return np.frombuffer(bytes(data), kind, count).reshape(shape)

    def one(n: int) -> Any:
        first = generator.randrange(-n - 1, n + 2)
        step = generator.choice([None, 1, 2, -1, -2])
        cut = slice(first, generator.randrange(-n - 1, n + 2), step)
        return generator.choice([cut, cut, slice(None), first, np.int64(first)])

    with Store(shm_dir / "store") as store:
        blank, expected = store.blank(shape, kind), np.zeros(shape, kind)
        for _ in range(60):
            index = tuple(one(n) for n in shape[: generator.randrange(len(shape) + 1)])
            if generator.random() < 0.4:
                index = (*index, ..., *[one(n) for n in shape[len(index) + 1 :]])
            try:
                part = values(expected[index].shape)
            except IndexError:
                with pytest.raises(IndexError):
                    blank[index] = 0
                continue
            more = [part[None], np.repeat(part, 2, 0)[::2]] if part.ndim else []
            given = generator.choice([part, np.array(part, order="F"), *more])
            given = generator.choice([given, values(()), values(part.shape[1:])])
            expected[index] = given
            blank[index] = given
        got = blank.seal().get()
        assert got.dtype == kind
        assert got.shape == expected.shape
        assert got.tobytes() == expected.tobytes()


def test_values_are_cast_as_numpy_does(shm_dir: Path) -> None:
    with Store(shm_dir / "store") as store:
        blank = store.blank(4, "u1")
        blank[:2] = np.array([1.9, 250.0])
        blank[2:] = [3, True]
        for wrong, error in ((300, OverflowError), ("text", ValueError), ([1, 2, 3], ValueError)):
            with pytest.raises(error):
                blank[:] = wrong
        with pytest.raises(TypeError, match="with a mask"):
            blank[:] = np.ma.masked_less(np.arange(4), 2)
        assert blank.seal().get().tolist() == [1, 250, 3, 1]


def test_large_parts_are_copied_in_pieces(shm_dir: Path) -> None:
    with Store(shm_dir / "store") as store:
        blank, expected = store.blank((3, 1200, 1000)), np.zeros((3, 1200, 1000))
        values = np.arange(1_200_000).reshape(1000, 1200).T
        for index in (0, np.s_[1:, ::-1], np.s_[2, :, 10:990]):
            part = values[:, :980] if isinstance(index, tuple) and len(index) == 3 else values
            blank[index] = part
            expected[index] = part
        blank[:, 5] = np.nan
        expected[:, 5] = np.nan
        np.testing.assert_array_equal(blank.seal().get(), expected)


@pytest.mark.parametrize("index", [[0, 1], np.array([0, 1]), True, None, 1.0, np.array([True])])
def test_other_indices_are_refused(index: Any, shm_dir: Path) -> None:
    with Store(shm_dir / "store") as store, pytest.raises(TypeError, match="integers, slices"):
        store.blank((2, 2))[index] = 1


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        (3, object, TypeError),
        (3, "no dtype", TypeError),
        (-1, "f8", ValueError),
        (1.5, "f8", TypeError),
        ((1 << 40, 1 << 40), "f8", ValueError),
        (1 << 60, "u1", StoreError),
    ],
)
def test_what_cannot_be_made_leaves_nothing(
    store: Store, shape: Any, dtype: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        store.blank(shape, dtype)
    assert objects(store) == []


def test_store_that_is_gone(shm_dir: Path) -> None:
    with Store(shm_dir / "store") as store:
        blank = store.blank(3)
        other: Blank = pickle.loads(pickle.dumps(blank))
    with pytest.raises(StoreClosedError):
        other[0] = 1
    with pytest.raises(StoreClosedError):
        other.seal()


def test_threads_and_forked_children_fill_one(store: Store) -> None:
    blank = store.blank((8, 1000), "i8")

    def write(n: int) -> None:
        for column in range(1000):
            blank[n, column] = n + column

    children = [fork(lambda n=n: write(n)) for n in range(4)]  # type: ignore[misc]
    threads = [threading.Thread(target=write, args=(n,)) for n in range(4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ended(child) for child in children] == [0] * 4
    assert (blank.seal().get() == np.add.outer(np.arange(8), np.arange(1000))).all()


def ended(child: int) -> int:
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize(
    ("scenario", "method"),
    [
        ("filled", "fork"),
        ("filled", "spawn"),
        ("killed", "spawn"),
        ("late", "fork"),
        ("of_an_executor", "forkserver"),
    ],
)
def test_tasks_of_a_pool_fill_one(scenario: str, method: str, shm_dir: Path) -> None:
    assert python("fill_a_blank", scenario, method, shm_dir / "store").stdout == "done\n"


def test_full_disk_is_known_at_once(shm_dir: Path) -> None:
    """A process that fills it gets no error later, and no SIGBUS."""
    before = small_tmpfs(shm_dir / "small", 40)
    program = "fill_a_blank", "full", "fork", shm_dir / "small" / "store"
    assert python(*program, before=before).stdout == "done\n"


def test_full_disk_that_cannot_reserve_is_an_error_of_the_write(shm_dir: Path) -> None:
    """As on NFS before 4.2; there the array is a hole until it is filled."""
    before = small_tmpfs(shm_dir / "small", 40)
    before += strace("-f", "-qq", "-o", "/dev/null", "-e", "inject=fallocate:error=EOPNOTSUPP")
    program = "fill_a_blank", "full_later", "fork", shm_dir / "small" / "store"
    assert python(*program, before=before).stdout == "done\n"


def test_seal_whose_process_was_killed_is_done_again(store: Store, tmp_path: Path) -> None:
    """Killed at each of its system calls, it leaves an array that is sealed or can be."""
    for when in range(1, 40):
        blank = store.blank(1000, "i4")
        blank[:] = when
        (tmp_path / "blank").write_bytes(pickle.dumps(blank))
        calls = "rename,openat,pwritev,unlink,close"
        killer = strace("-qq", "-o", "/dev/null", "-e", f"inject={calls}:signal=KILL:when={when}")
        killer += ["-P", store.store_dir]
        for folder in Path(store.store_dir).iterdir():
            killer += ["-P", str(folder)]
            killer += [part for path in folder.glob("*") for part in ("-P", str(path))]
        sealed = store.connector.path(blank._sealed.key)
        killer += ["-P", sealed, "-P", f"{sealed}.ready"]
        done = python("seal_a_blank", tmp_path / "blank", before=killer, check=False)
        ref = blank.seal()
        assert (ref.get() == when).all()
        assert len(objects(store)) == 1
        ref.evict()
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert when > 1
