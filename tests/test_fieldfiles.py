"""`Store.put_file` and `get_file`: files of arrays and bytes, without a way through memory."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import subprocess
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import CorruptObjectError, SerializationError, Store
from fsexchange.errors import MissingObjectError
from fsexchange.serialize import dumps
from fsexchange.serialize.description import describe, total_length
from fsexchange.serialize.format import SMALL_START

from .processes import lacking, python, strace


@pytest.fixture
def store(base_dir: Path) -> Iterator[Store]:
    with Store(base_dir / "store") as store:
        yield store


def test_an_array_of_a_file_is_as_any_other(store: Store, base_dir: Path) -> None:
    array = np.random.default_rng(1).random((400, 500))
    np.save(base_dir / "x.npy", array)
    key = store.put_file(base_dir / "x.npy", name="x")
    got = store.get("x")
    assert np.array_equal(got, array)
    got[0] = 0  # one's own
    assert np.array_equal(store.get(key), array)
    assert key.nbytes == (base_dir / "x.npy").stat().st_size
    store.get_file("x", base_dir / "y.npy")
    assert (base_dir / "y.npy").read_bytes() == (base_dir / "x.npy").read_bytes()
    assert store.get(store.put_file(base_dir / "x.npy", as_bytes=True))[:6] == b"\x93NUMPY"


def test_with_markers(base_dir: Path) -> None:
    from fsexchange import FileConnector

    np.save(base_dir / "x.npy", np.arange(9))
    with Store(FileConnector(base_dir / "store", markers=True)) as store:
        key = store.put_file(base_dir / "x.npy")
        assert store.get(key).sum() == 36
        store.get_file(key, base_dir / "y.npy")
        store.evict(key)
        with pytest.raises(MissingObjectError):
            store.get_file(key, base_dir / "y.npy")


def test_descriptors_and_pipes(store: Store, base_dir: Path) -> None:
    data = bytes(range(256)) * 1000
    (base_dir / "x").write_bytes(data)
    with open(base_dir / "x", "rb", buffering=0) as file:
        file.seek(1000)
        assert store.get(store.put_file(file.fileno())) == data[1000:]
    np.save(base_dir / "x.npy", np.arange(100_000))
    for name, expected in {"x": data, "x.npy": None}.items():
        with subprocess.Popen(["cat", base_dir / name], stdout=subprocess.PIPE) as cat:
            assert cat.stdout is not None
            got = store.get(store.put_file(cat.stdout.fileno()))
        assert got.sum() == 4999950000 if expected is None else got == expected
    (base_dir / "log").write_bytes(b"a line\n")
    with open(base_dir / "log", "ab") as file:  # no call but write takes it
        store.get_file(store.put(b"another\n"), file.fileno())
        store.get_file(store.put(data), file.fileno())
    assert (base_dir / "log").read_bytes() == b"a line\nanother\n" + data


def test_progress_counts_every_byte(store: Store, base_dir: Path) -> None:
    (base_dir / "x").write_bytes(bytes(40 << 20))
    steps: list[int] = []
    key = store.put_file(base_dir / "x", progress=steps.append)
    assert (sum(steps), len(steps) > 1) == (40 << 20, True)
    steps.clear()
    store.get_file(key, base_dir / "y", progress=steps.append)
    assert sum(steps) == 40 << 20


def test_what_cannot_be_put_leaves_nothing(store: Store, base_dir: Path) -> None:
    np.save(base_dir / "objects.npy", np.array([{}]))
    np.save(base_dir / "cut.npy", np.arange(9))
    os.truncate(base_dir / "cut.npy", 190)
    before = _files(store)
    for name, error in {
        "objects.npy": SerializationError,
        "cut.npy": CorruptObjectError,
        "gone": FileNotFoundError,
        ".": IsADirectoryError,
    }.items():
        with pytest.raises(error, match=name):
            store.put_file(base_dir / name, name="x")
    with pytest.raises(ValueError, match="pass name="):
        store.put_file(base_dir / "cut.npy", replace=True)
    assert _files(store) == before
    assert "x" not in store.names


def test_an_interrupt_leaves_nothing(store: Store, base_dir: Path) -> None:
    (base_dir / "x").write_bytes(bytes(40 << 20))

    def interrupt(nbytes: int) -> None:
        raise KeyboardInterrupt

    store.put(1)
    before = _files(store)
    with pytest.raises(KeyboardInterrupt):
        store.put_file(base_dir / "x", name="x", progress=interrupt)
    assert _files(store) == before
    key = store.put_file(base_dir / "x")
    with pytest.raises(KeyboardInterrupt):
        store.get_file(key, base_dir / "y", progress=interrupt)
    assert sorted(os.listdir(base_dir)) == ["store", "x"]


def _files(store: Store) -> list[str]:
    return sorted(
        str(path) for path in Path(store.store_dir).rglob("*") if path.name[0].isdecimal()
    )


def test_other_objects_need_an_encoding(store: Store, base_dir: Path) -> None:
    key = store.put({"a": 1})
    with pytest.raises(SerializationError, match="is a dict"):
        store.get_file(key, base_dir / "x")
    store.get_file(key, base_dir / "x", encode=pickle.dumps)
    assert pickle.loads((base_dir / "x").read_bytes()) == {"a": 1}


def test_damage_is_found_before_anything_is_written(store: Store, base_dir: Path) -> None:
    key = store.put(np.arange(1000), checksum=True)
    with open(f"{store.store_dir}/{key.filename}", "r+b") as file:
        file.seek(500)
        file.write(b"damage")
    with pytest.raises(CorruptObjectError):
        store.get_file(key, base_dir / "x")
    os.truncate(f"{store.store_dir}/{key.filename}", 500)
    with pytest.raises(CorruptObjectError, match="500 bytes instead of"):
        store.get_file(key, base_dir / "x")
    assert os.listdir(base_dir) == ["store"]


def test_the_kernel_copies(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    before = strace("-f", "-o", str(trace), "-e", "trace=copy_file_range,ioctl,mmap,read,pread64")
    python("put_and_get_a_file", tmp_path, before=before)
    calls = trace.read_text().split("put_file begins", 1)[-1]
    assert calls.count("copy_file_range(") >= 2
    large = [line for line in calls.splitlines() if "read" in line and line.endswith("= 8000128")]
    assert not large


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_blocks_are_shared_where_the_file_system_can(tmp_path: Path, kind: str) -> None:
    if shutil.which(f"mkfs.{kind}") is None or os.geteuid():
        lacking(f"mkfs.{kind}, and the right to mount")
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True)
    script = f'mount -o loop {image} {mount} && "$@"; s=$?; umount {mount}; exit $s'
    before = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        lacking(f"a loop device with {kind}")
    python("put_and_get_a_file", mount, "shared", before=before)


def test_descriptions_are_true() -> None:
    for expected, obj in {
        "int": 1,
        "tuple": (1, 2),
        "list": [1, {}],
        "dict": {"a": [np.ones(3)]},
        "datetime.timedelta": timedelta(1),
    }.items():
        data = dumps(obj)
        assert describe(data, len(data)).of == expected
        assert total_length(data[:32]) == len(data)
    data = dumps(np.ones(9))[:-1]
    assert not describe(data, len(data)).whole


def test_any_bytes_are_described_without_an_error() -> None:
    rng = np.random.default_rng(2)
    examples = [dumps(np.ones((2, 3))), dumps({"a": (1, [2])}), dumps(b"x" * 2000), dumps("y")]
    for _ in range(2000):
        data: Any = bytearray(examples[rng.integers(4)])
        for at in rng.integers(0, len(data), 3):
            data[at] = rng.integers(256)
        describe(bytes(data[: rng.integers(len(data))]), len(data))


def test_a_pickle_that_doubles_a_name_is_described_in_little_memory() -> None:
    double = b"".join(bytes((104, n, 104, n, 147, 148)) for n in range(22))
    pickled = b"\x80\4\x8c\x08abcdefgh\x94" + double + b"."
    data = SMALL_START + struct.pack("<III", 0, len(pickled), len(pickled)) + pickled
    tracemalloc.start()
    try:
        assert describe(data, len(data)).of.startswith("abcdefgh.abcdefgh.")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_changed_head_is_found(store: Store, base_dir: Path) -> None:
    """Nothing else says what the elements are that are copied as they lie."""
    for obj in (np.ones((2, 3)), np.ones((1 << 18, 3)), b"x" * 10_000, "y" * 10_000):
        key = store.put(obj)
        with open(f"{store.store_dir}/{key.filename}", "r+b") as file:
            file.seek(24 if isinstance(obj, np.ndarray) else 20)
            data = bytearray(file.read(60))
            at = data.index(3) if isinstance(obj, np.ndarray) else 0
            file.seek(-60 + at, os.SEEK_CUR)
            file.write(b"\2")
        with pytest.raises(CorruptObjectError):
            store.get_file(key, base_dir / "x")
    assert os.listdir(base_dir) == ["store"]


def test_a_npy_file_of_a_shape_that_no_array_has(store: Store, base_dir: Path) -> None:
    np.save(base_dir / "x.npy", np.ones((1, 1)))
    data = (base_dir / "x.npy").read_bytes()
    (base_dir / "x.npy").write_bytes(data.replace(b"(1, 1), }  ", b"(-1, -1), }"))
    with pytest.raises(CorruptObjectError):
        store.put_file(base_dir / "x.npy")


def test_what_a_file_would_lose_is_no_file(store: Store, base_dir: Path) -> None:
    class Kelvin(np.ndarray[Any, Any]):
        pass

    for obj in (np.ma.masked_less(np.arange(3.0), 1), np.arange(3.0).view(Kelvin)):
        store.put(obj, name="x", replace=True)
        with pytest.raises(SerializationError, match=f"a {type(obj).__name__}"):
            store.get_file("x", base_dir / "x.npy")
    assert os.listdir(base_dir) == ["store"]
    kept = np.rec.array([(1, 2.0)], dtype="i4,f8")  # a view of it is all that this class adds
    store.put(kept, name="x", replace=True)
    store.get_file("x", base_dir / "x.npy")
    assert np.array_equal(np.load(base_dir / "x.npy"), np.asarray(kept))
