"""Ref: small, hashable, typed, loaded once."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fsexchange import MissingObjectError, Ref, Store, StoreClosedError


def test_ref_loads_once_while_it_lives(base_dir: Path) -> None:
    with Store(base_dir / "store") as store:
        ref = store.ref(np.zeros(1 << 18))
        loaded = ref.get()
        loaded[0] = 5
        assert ref.get() is loaded
        other = pickle.loads(pickle.dumps(ref))
        assert other.get()[0] == 0  # its own
        assert store.ref(None).get() is None
        maps = f"{store.connector.store_dir}/{ref.key.filename}"
        assert Path("/proc/self/maps").read_text().count(maps) == 2
        del loaded, ref, other
        gc.collect()
        assert maps not in Path("/proc/self/maps").read_text()


def test_ref_is_small_and_a_value(base_dir: Path) -> None:
    with Store(base_dir / "store") as store:
        ref, other = store.ref(np.zeros(1 << 20)), store.ref(1)
        ref.get()
        assert len(pickle.dumps(ref)) < 500  # loaded or not
        copy = pickle.loads(pickle.dumps(ref))
        assert copy == ref
        assert hash(copy) == hash(ref)
        assert ref != other
        assert ref != ref.key
        assert len({ref, copy, other}) == 2
        assert store.connector.store_dir in repr(ref)


def test_evicted_is_gone_for_everyone(base_dir: Path) -> None:
    with Store(base_dir / "store") as store:
        ref = store.ref("x")
        copy = pickle.loads(pickle.dumps(ref))
        assert ref.get() == "x"
        ref.evict()
        assert ref.get() == "x"  # loaded, stays good
        with pytest.raises(MissingObjectError):
            copy.get()
        gone = store.ref("y")
        late = pickle.loads(pickle.dumps(gone))
    with pytest.raises(StoreClosedError):
        late.get()


def test_ref_of_an_array_is_an_array_to_numpy(base_dir: Path) -> None:
    with Store(base_dir / "store") as store:
        ref = store.ref(np.arange(6.0).reshape(2, 3))
        assert np.asarray(ref).dtype == np.float64
        assert np.shares_memory(np.asarray(ref), ref.get())
        np.testing.assert_array_equal(ref, ref.get())
        assert np.sum(ref) == 15
        assert (np.ones((2, 2)) @ ref).shape == (2, 3)
        copy = np.array(ref)
        copy[:] = 7
        assert ref.get()[0, 0] == 0
        assert np.asarray(ref, dtype=np.float32).dtype == np.float32
        assert not np.shares_memory(np.array(ref, copy=True), ref.get())
        assert np.concatenate([ref, ref]).shape == (4, 3)
        assert np.asarray(store.ref([1, 2])).tolist() == [1, 2]  # as that of the list itself
        assert np.asarray(store.ref(3.5)) == 3.5


def test_ref_of_an_array_honours_copy(base_dir: Path) -> None:
    """As numpy 2 passes it on; numpy 1 never does, and copies if it must for copy=False."""
    with Store(base_dir / "store") as store:
        ref = store.ref(np.arange(6.0))
        assert ref.__array__() is ref.get()
        assert ref.__array__(np.float32).dtype == np.float32
        assert not np.shares_memory(ref.__array__(copy=True), ref.get())
        assert ref.__array__(np.dtype(float), copy=False) is ref.get()
        if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
            with pytest.raises(ValueError, match="copy"):
                np.asarray(ref, np.float32, copy=False)
            with pytest.raises(ValueError, match="copy"):
                store.ref([1, 2]).__array__(copy=False)


def test_ref_of_a_subclass_keeps_it_for_those_who_ask(base_dir: Path) -> None:
    with Store(base_dir / "store") as store:
        ref: Ref[Any] = store.ref(np.ma.masked_array([1, 2], [False, True]))
        assert isinstance(np.asanyarray(ref), np.ma.MaskedArray)
        assert type(np.asarray(ref)) is np.ndarray


def test_ref_of_what_is_gone_is_an_error_to_numpy(base_dir: Path) -> None:
    """Not an array of one object without a word."""
    with Store(base_dir / "store") as store:
        ref = store.ref(np.arange(6.0))
        ref.evict()
        with pytest.raises(MissingObjectError):
            np.asarray(ref)


def _total(refs: list[Ref[npt.NDArray[np.float64]]]) -> float:
    return float(sum(ref.get().sum() for ref in refs))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_refs_deep_in_arguments_reach_workers(method: str, base_dir: Path) -> None:
    with Store(base_dir / "store") as store:
        refs: Any = [store.ref(np.full(1000, n)) for n in range(3)]
        with multiprocessing.get_context(method).Pool(2) as pool:
            totals = pool.map_async(_total, [refs, refs[:1], refs[1:]])
            assert totals.get(timeout=60) == [3000.0, 0.0, 3000.0]
            pool.close()
            pool.join()


# Text, as the checkers must see it in another project, and it has an error on purpose.
USER = """
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fsexchange import FileKey, Future, Ref, Store

if TYPE_CHECKING:
    from typing_extensions import assert_type


def total(ref: Ref[list[int]]) -> int:
    return sum(ref.get())


def check(store: Store, array: NDArray[np.float64]) -> None:
    assert_type(store.ref(array), Ref[NDArray[np.float64]])
    assert_type(store.ref(array).get(), NDArray[np.float64])
    assert_type(store.ref("text").get(), str)
    assert_type(store.ref(np.zeros(3)).get().ndim, int)
    future: Future[int] = store.future()
    assert_type(future.result(timeout=1), int)
    assert_type(future.ref, Ref[int])
    future.ref.store.put(1)
    assert_type(store.names["mesh"], FileKey)
    total(store.ref([1, 2]))
    total(store.ref("wrong"))
"""


CHECKERS = [["mypy", "--strict"], ["pyright", "--pythonpath", sys.executable]]


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS, ids=lambda checker: checker[0])
def test_a_ref_knows_its_type(checker: list[str], tmp_path: Path) -> None:
    """All assertions hold, and the wrong argument in the last line is the one error."""
    (tmp_path / "user.py").write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", *checker, "user.py"], capture_output=True, text=True, cwd=tmp_path
    )
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    last = len(USER.splitlines())
    assert [f"user.py:{last}:" in line for line in errors] == [True], done.stdout + done.stderr
