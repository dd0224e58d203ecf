"""Every object comes back equal and of its type; large parts are neither copied nor misread."""

from __future__ import annotations

import collections
import contextlib
import copyreg
import dataclasses
import datetime
import decimal
import functools
import gc
import io
import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import threading
import types
import weakref
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fsexchange import (
    CorruptObjectError,
    FileConnector,
    FileKey,
    Future,
    Ref,
    SerializationError,
    Store,
)
from fsexchange.connector.default import default_store
from fsexchange.serialize import deserialize, dumps, serialize, subclasses
from fsexchange.serialize.alike import common_head
from fsexchange.serialize.arrays import ARRAY_OF, HEAD_OF
from fsexchange.serialize.by_value import define
from fsexchange.serialize.format import frames_of_pieces
from fsexchange.serialize.reasons import is_of_handler

from .data.flat_modules import written
from .processes import PROGRAMS, ROOT, python


def through_a_file(obj: Any, *, checksum: bool = False) -> Any:
    """What a reader gets: from a bytearray when small, from a private mapping when large."""
    with FileConnector(**default_store()) as connector:
        got = connector.get(connector.put(serialize(obj, checksum=checksum)))
        assert got is not None
        return deserialize(got)


@dataclasses.dataclass
class Point:
    x: int
    y: Any


Named = collections.namedtuple("Named", "a b")

PLAIN: list[Any] = [
    None,
    True,
    0,
    -(1 << 100),
    1.5,
    float("inf"),
    1j,
    "",
    "text",
    "naïve 漢字 \U0001f680 \udc80",
    b"",
    b"bytes",
    bytearray(b"bytearray"),
    [],
    {},
    (1, "a", None, [2.5, {"k": b"v"}]),
    {"nested": {"deep": [{"er": {1, 2}}]}},
    frozenset([1]),
    range(3),
    slice(1, 2),
    decimal.Decimal("1.50"),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    Point(1, [2]),
    Named(1, 2),
    collections.OrderedDict(a=1),
    Path("/a/b"),
    ValueError,
    len,
    np.float32(1.5),
    np.int64(7),
    np.datetime64("2026-01-02"),
    np.bool_(True),
    np.str_("x"),
    np.dtype("i4,f8"),
    bytes(100_000),
    "x" * 100_000,
]


def test_machines_without_isal_write_the_same_bytes() -> None:
    lines = python("write_without_isal").stdout.splitlines()
    objs = [12, "x" * 5000, {"a": [1, "text"]}, np.arange(6.0), [np.arange(2000.0)]]
    for line, obj in zip(lines, objs, strict=True):
        assert line == f"{dumps(obj).hex()} {dumps(obj, checksum=True).hex()}"


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("obj", PLAIN, ids=lambda obj: repr(obj)[:30])
def test_object_comes_back_equal_and_of_its_type(obj: Any, checksum: bool) -> None:
    got = through_a_file(obj, checksum=checksum)
    assert type(got) is type(obj)
    assert got == obj


BASE = np.arange(2 * 3 * 4, dtype="i4").reshape(2, 3, 4)

DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g", "F", "D", "G"]
DTYPES += ["S3", "U3", "V4", ">i4", ">f8", ">U2", "S0"]

ARRAYS = {
    **{f"dtype {dtype}": np.ones(5, dtype) for dtype in DTYPES},
    "datetime": np.array(["2026-01-02", "NaT"], "M8[ns]"),
    "big-endian datetime": np.array(["2026-01-02"], ">M8[D]"),
    "timedelta": np.array([1, 2], "m8[25s]"),
    "object": np.array([1, "a", None, [2]], dtype=object),
    "structured": np.array([(1, 2.5, b"x")], "i4,f8,S3"),
    "aligned": np.zeros(3, np.dtype("i1,f8", align=True)),
    "nested structured": np.zeros(2, [("a", [("b", "f4", (2, 3))]), ("c", ">i2")]),
    "structured with objects": np.array([(1, [2])], [("a", "i4"), ("b", object)]),
    "0-d": np.array(3.5),
    "0-d datetime": np.array("2026-01-02", "M8[s]"),
    "empty": np.zeros((3, 0, 2)),
    "empty Fortran": np.zeros((3, 0, 2), order="F"),
    "multi-dimensional": BASE,
    "Fortran": np.asfortranarray(BASE),
    "transposed": BASE.transpose(2, 0, 1),
    "strided": BASE[:, ::2, 1:],
    "reversed": BASE[::-1],
    "broadcast": np.broadcast_to(np.arange(3.0), (4, 3)),
    "strided datetime": np.arange(10).astype("M8[s]")[::3],
    "strided structured": np.zeros(10, "i4,f8")[::3],
    "large": np.random.default_rng(0).random((300, 1000)),
    "large Fortran": np.asfortranarray(np.random.default_rng(0).random((300, 1000))),
    "large strided": np.random.default_rng(0).random((600, 1000))[::2, 1:],
    "bool scalar array": np.array(True),
}
_read_only = np.arange(10)
_read_only.flags.writeable = False
ARRAYS["read-only"] = _read_only


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "nested"])
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_array_of_any_dtype_and_order(array: Any, nested: bool) -> None:
    got = through_a_file([array, "x"])[0] if nested else through_a_file(array)
    assert type(got) is np.ndarray
    assert got.dtype == array.dtype
    assert got.dtype.str == array.dtype.str
    assert got.shape == array.shape
    np.testing.assert_array_equal(got, array)
    if not array.dtype.hasobject and array.size > 1:
        assert got.flags.c_contiguous or array.flags.f_contiguous
        assert got.flags.f_contiguous == array.flags.f_contiguous or array.ndim == 1
    assert got.flags.aligned or got.dtype.fields
    if not nested or got.nbytes >= 512:
        assert got.flags.writeable
        got[...] = got  # of one's own


def test_dtype_metadata_is_kept() -> None:
    array = np.zeros(3, np.dtype("f8", metadata={"unit": "m"}))
    assert through_a_file(array).dtype.metadata == {"unit": "m"}


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="new in numpy 2")
def test_variable_width_strings() -> None:
    array = np.array(["short", "x" * 1000], np.dtypes.StringDType())
    got = through_a_file(array)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


class Tagged(np.ndarray[Any, Any]):
    """A subclass without anything to say of its own pickling."""


SUBCLASSES = {
    "masked": np.ma.MaskedArray(np.arange(1000.0), mask=np.arange(1000) % 3 == 0, fill_value=-1),
    "masked without a mask": np.ma.MaskedArray([1, 2]),
    "masked record": np.ma.array([(1, 2.0)], mask=[(True, False)], dtype="i4,f8"),
    "matrix": np.arange(1000.0).view(np.ndarray).reshape(10, 100).view(np.matrix),
    "record": np.rec.array([(1, "a")] * 200, dtype="i4,U3"),
    "own": np.arange(1000.0).view(Tagged),
    "own strided": np.arange(1000.0).view(Tagged)[::3],
}


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "nested"])
@pytest.mark.parametrize("array", SUBCLASSES.values(), ids=SUBCLASSES)
def test_subclass_of_array_keeps_its_type(array: Any, nested: bool) -> None:
    got = through_a_file({"a": array})["a"] if nested else through_a_file(array)
    assert type(got) is type(array)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(np.asarray(got), np.asarray(array))
    if isinstance(array, np.ma.MaskedArray):
        np.testing.assert_array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(array))
        assert got.fill_value == array.fill_value


class Copies(np.ndarray[Any, Any]):
    """Takes an attribute over from what it is made of."""

    info: str

    def __array_finalize__(self, obj: Any) -> None:
        if obj is not None:
            self.info = obj.info


class Recipe(np.ndarray[Any, Any]):
    """As numpy's guide to subclasses shows it."""

    info: Any = None

    def __array_finalize__(self, obj: Any) -> None:
        self.info = getattr(obj, "info", None)

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        function, args, state = reduced
        return function, args, (*state, self.info)

    def __setstate__(self, state: Any) -> None:
        self.info = state[-1]
        super().__setstate__(state[:-1])


class Wraps(Recipe):
    def __reduce__(self) -> Any:
        return _wraps, (np.asarray(self), self.info)


class Looks(Recipe):
    """Looks at its elements when it is pickled."""

    def __reduce__(self) -> Any:
        self.info = float(np.asarray(self).ravel()[0])
        return super().__reduce__()


def _wraps(array: Any, info: Any) -> Wraps:
    made: Wraps = array.view(Wraps)
    made.info = info
    return made


def test_subclass_that_copies_from_its_template() -> None:
    array: Any = np.ndarray.__new__(Copies, (2, 1000), "M8[s]")
    array[...] = np.datetime64("2026-01-02")
    array.info = "an attribute"
    for obj in (array, array.T, array[:0], array[:, ::2]):
        got = through_a_file([obj])[0]
        assert type(got) is Copies
        np.testing.assert_array_equal(np.asarray(got), np.asarray(obj))


def test_broadcast_array_of_a_subclass() -> None:
    row = np.arange(6)
    for kind in (np.matrix, np.recarray, Tagged):
        for shape in ((1, 6), (2000, 6), (6, 2000)):
            array: Any = np.broadcast_to(row if shape[1] == 6 else row[:, None], shape).view(kind)
            got = through_a_file([array])[0]
            assert type(got) is kind
            np.testing.assert_array_equal(np.asarray(got), np.asarray(array))


@pytest.mark.parametrize("kind", [Recipe, Wraps, Looks])
def test_subclass_with_a_reduce_of_its_own(kind: Any) -> None:
    array = np.arange(40_000.0).reshape(200, 200).view(kind)
    array.info = {"unit": ["m"]}
    for obj in (array, array.T, array[:100]):
        got = through_a_file({"a": obj})["a"]
        assert type(got) is kind
        assert got.info == (0 if kind is Looks else {"unit": ["m"]})
        np.testing.assert_array_equal(np.asarray(got), np.asarray(obj))
        if kind is not Looks:
            frames = [np.frombuffer(frame, np.uint8) for frame in serialize([obj]) if len(frame)]
            assert any(np.shares_memory(frame, array) for frame in frames)
            assert sum(f.nbytes for f in frames if not np.shares_memory(f, array)) < 2000
            buffer = bytearray(dumps([obj]))
            assert np.shares_memory(deserialize(buffer)[0], np.frombuffer(buffer, np.uint8))


def test_masked_array_over_a_subclass() -> None:
    data = np.arange(100.0).view(Recipe)
    data.info = "m"
    matrix = np.arange(1000.0).reshape(10, 100).view(np.matrix)
    for inner in (data, matrix):
        array: Any = np.ma.MaskedArray(inner, mask=inner > 50)
        got = through_a_file([array])[0]
        assert type(got) is np.ma.MaskedArray
        assert type(got.data) is type(pickle.loads(pickle.dumps(array)).data) is type(inner)
        np.testing.assert_array_equal(got.mask, array.mask)
        np.testing.assert_array_equal(np.asarray(got), np.asarray(array))


def test_memory_mapped_array_is_written_and_keeps_its_type(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "x", "f8", "w+", shape=(1000,))
    array[:] = 7
    got = through_a_file(array)
    assert type(got) is np.memmap
    assert got.sum() == 7000
    del array


def test_memoryview_comes_back_with_format_and_shape() -> None:
    for view in (memoryview(b"abc"), BASE.data, BASE[:, ::2].data, memoryview(bytearray(10))[::3]):
        got = through_a_file(view)
        assert type(got) is memoryview
        assert (got.format, got.shape) == (view.format, view.shape)
        assert got == view


def test_containers_that_share_an_array_share_it_afterwards() -> None:
    for array in (np.arange(1000.0), np.arange(2000.0)[::2], np.arange(3)):
        got = through_a_file({"a": array, "b": [array], "c": Point(0, array)})
        assert got["a"] is got["b"][0] is got["c"].y
        assert len(b"".join(serialize([array, array, array]))) < 2 * array.nbytes + 400


def test_many_small_arrays_are_few_frames() -> None:
    """A frame for each would take longer to write than to copy them."""
    obj = [np.full(80, n, "f8") for n in range(1000)]
    frames = serialize(obj)
    assert len(frames) < 100
    assert np.array_equal(deserialize(b"".join(frames)), obj)


def test_arrays_without_dimensions_keep_their_value() -> None:
    """`bytearray` takes an integer of no dimensions for a length."""
    for obj in (np.array(5), np.array(2.5), np.array(True), np.array(5, ">i4")):
        got = deserialize(dumps([obj]))[0]
        assert (got, got.dtype, got.shape) == (obj, obj.dtype, ())


def test_type_of_no_module_is_let_go_and_heeds_copyreg() -> None:
    kind: Any = type("Passing", (int,), {"__reduce__": lambda self: (int, (int(self),))})
    assert deserialize(dumps([kind(1)])) == deserialize(dumps([kind(1)])) == [1]
    copyreg.pickle(kind, lambda obj: (int, (int(obj) + 1,)))
    assert deserialize(dumps([kind(1)])) == [2]
    del copyreg.dispatch_table[kind]
    assert deserialize(dumps([kind(1)])) == [1]
    plain: Any = type("Plain", (), {"__new__": lambda kind, x=0: object.__new__(kind)})
    obj = plain()
    obj.x = 1
    assert deserialize(dumps([obj]))[0].x == 1
    plain.__getnewargs__ = lambda self: (self.x,)
    plain.__new__ = lambda kind, x: object.__new__(kind)
    assert deserialize(dumps([obj]))[0].x == 1  # its `__new__` needs the argument
    gone = weakref.ref(kind)
    del kind
    gc.collect()
    assert gone() is None


def test_contiguous_arrays_are_not_copied_and_strided_once() -> None:
    for array in (
        np.zeros(1 << 20),
        np.zeros((1 << 10, 1 << 10), order="F"),
        np.zeros(1 << 13, "M8[s]"),
        np.zeros(599, "M8[s]"),
    ):
        objs: list[Any] = [array, [array], {"deep": [Point(1, array)]}]
        if array.nbytes > 1 << 17:  # smaller ones of subclasses are pickled
            objs.append(array.view(Tagged))
        for obj in objs:
            frames = [np.frombuffer(frame, np.uint8) for frame in serialize(obj) if len(frame)]
            assert any(np.shares_memory(frame, array) for frame in frames)
            assert sum(f.nbytes for f in frames if not np.shares_memory(f, array)) < 1000
    strided = np.zeros(1 << 20)[::2]
    for strided_obj in (strided, [strided, strided]):
        assert sum(len(frame) for frame in serialize(strided_obj)) < strided.nbytes + 1000


class Sized:
    def __reduce__(self) -> Any:
        return str, ("y" * (1 << 20),)  # which nobody else keeps


def test_long_bytes_and_text_in_containers_are_not_copied() -> None:
    long = bytes(1 << 20)
    text, wide = "x" * (1 << 20), "漢" * (1 << 20)
    obj = {"a": long, "b": [bytearray(1 << 20), text], "c": (wide, Sized(), "\udc80" * (1 << 16))}
    for checksum in (False, True):
        frames = serialize([obj, np.arange(1000.0)], checksum=checksum)
        assert any(frame is long for frame in frames)
        assert sum(len(frame) for frame in frames if len(frame) < 1 << 17) < 20_000
        data = b"".join(frames)
        got, array = deserialize(data)
        assert got == {**obj, "c": (wide, "y" * (1 << 20), obj["c"][2])}
        assert array.sum() == 499_500
        for place in (data.index(long) + 1000, data.index(b"xxx"), len(data) - 4000):
            changed = bytearray(data)
            changed[place] ^= 1
            if checksum:
                with pytest.raises(CorruptObjectError):
                    deserialize(changed)
            else:
                deserialize(changed)


@pytest.mark.parametrize("nbytes", [1 << 16, 1 << 20, 5 << 20])
def test_long_bytes_of_a_large_pickle(nbytes: int) -> None:
    """They come back as what they were, each once, whatever is between them."""
    once, rest = bytes([1]) * nbytes, bytearray([2]) * (4 << 20)
    obj: Any = [once, "x" * (nbytes // 8), {"again": once, "rest": rest}, b"", (rest, [3])]
    for checksum in (False, True):
        for kind in (bytes, bytearray):
            got = deserialize(kind(dumps(obj, checksum=checksum)))
            assert got == obj
            assert type(got[0]) is bytes
            assert got[2]["again"] is got[0]
            assert type(got[2]["rest"]) is bytearray
            assert got[4][0] is got[2]["rest"]
            got[2]["rest"] += b"longer"
    for other in ((rest, 1), (once, rest), frozenset([bytes(rest)]), {1: bytes(rest), 2: rest}):
        assert deserialize(dumps(other)) == other


def test_bytes_that_end_like_the_start_of_a_value() -> None:
    """They are the user's, and say nothing about what follows in the pickle."""
    pieces: list[Any] = []
    file: Any = SimpleNamespace(write=pieces.append)
    numbers = list(range(1000, 60_000))
    pickle.Pickler(file, 5).dump([bytes(8 << 20), *numbers])
    follows = len(pieces[[*map(len, pieces)].index(8 << 20) + 1])
    assert follows >= 1 << 16
    for opcode in (pickle.BINBYTES, pickle.BINUNICODE):
        obj = [bytes((8 << 20) - 5) + opcode + follows.to_bytes(4, "little"), *numbers]
        assert deserialize(dumps(obj)) == obj
        # As an earlier version wrote it, which took what follows for a value.
        pieces.clear()
        pickle.Pickler(file, 5).dump(obj)
        at = [*map(len, pieces)].index(8 << 20)
        data = b"".join(frames_of_pieces(pieces, [at, at + 1], (), b"", False))
        assert deserialize(data) == obj


def test_table_that_names_a_value_again_and_again() -> None:
    obj = [bytes(8 << 20)]
    pieces: list[Any] = []
    file: Any = SimpleNamespace(write=pieces.append)
    pickle.Pickler(file, 5).dump(obj)
    at = [*map(len, pieces)].index(8 << 20)
    data = b"".join(frames_of_pieces(pieces, [at] * 100, (), b"", False))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(CorruptObjectError):
        assert deserialize(data) == obj
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize("long", [0, 3, 600])
def test_pickles_of_many_pieces(long: int) -> None:
    small = [bytes([n % 256]) * 1000 for n in range(10 if long == 600 else 40_000)]
    values = [bytes([n % 256]) * (1 << 16) for n in range(long)]
    obj = [values[:1], small, values[1:], small[:100]]
    frames = serialize(obj)
    assert len(frames) < 2 * long + 100
    assert deserialize(b"".join(frames)) == obj


def test_arrays_loaded_are_views_of_the_buffer_and_aligned() -> None:
    first, second = np.arange(1000.0), np.arange(3000, dtype="i2")
    for obj in ({"a": first, "b": second}, [first, second]):
        buffer = np.zeros(100_000, np.uint8)
        data = dumps(obj)
        start = -buffer.ctypes.data % 64
        window = buffer[start : start + len(data)]
        window[:] = np.frombuffer(data, np.uint8)
        got = deserialize(window.data)
        for array in got.values() if isinstance(got, dict) else got:
            assert np.shares_memory(array, buffer)
            assert array.ctypes.data % 64 == 0
            assert array.flags.writeable


def test_read_only_buffer_gives_read_only_arrays() -> None:
    assert not deserialize(dumps(np.arange(1000))).flags.writeable
    assert deserialize(bytearray(dumps(np.arange(1000)))).flags.writeable


def test_dataframes_and_tables() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"i": range(1000), "f": np.random.default_rng(0).random(1000), "s": ["x", "y"] * 500}
    )
    frame["t"] = pd.Timestamp("2026-01-02", tz="UTC")
    frame["c"] = frame["s"].astype("category")
    pd.testing.assert_frame_equal(through_a_file(frame), frame)
    numbers = pd.DataFrame(np.zeros((100_000, 4)))
    frames = serialize(numbers)
    assert len(frames[0]) < 10_000  # its blocks are buffers of their own

    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": list(range(1000)), "b": ["x", None] * 500})
    got = through_a_file(table)
    assert got.equals(table)
    assert got.schema == table.schema

    xr = pytest.importorskip("xarray")
    data = xr.DataArray(np.ones((30, 40)), dims=("y", "x"), coords={"x": range(40)}, name="n")
    xr.testing.assert_identical(through_a_file(data), data)
    xr.testing.assert_identical(through_a_file(data.to_dataset()), data.to_dataset())


def test_functions_without_a_name_to_import() -> None:
    offset = 10
    array = np.arange(1000.0)

    def closure(x: int) -> Any:
        return x + offset + array.sum()

    class Local:
        def method(self) -> int:
            return offset

    assert through_a_file(lambda x: x + 1)(1) == 2
    assert through_a_file(closure)(1) == closure(1)
    assert through_a_file({"f": [Local]})["f"][0]().method() == 10
    assert through_a_file(Local()).method() == 10
    # What cloudpickle takes over is still not copied.
    assert len(serialize([lambda: 1, np.zeros(1 << 20)])[0]) < 10_000


def test_code_that_another_python_has_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused: to run it would end the process, or give anything."""

    class Local:
        def method(self) -> int:
            return 5

    with monkeypatch.context() as patch:
        patch.setattr(sys.implementation, "cache_tag", "cpython-37")
        datas = [dumps(lambda: 5), dumps(Local()), dumps([1, Local.method])]
        definition = define(Local)
        assert deserialize(datas[0])() == 5
    for data in datas:
        with pytest.raises(SerializationError, match="cpython-37 has compiled"):
            deserialize(data)
    with pytest.raises(SerializationError, match="cpython-37 has compiled"):
        pickle.loads(zlib.decompress(definition.data))


def test_function_without_a_name_where_another_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same memory, and under the name that pickle found the other by."""
    module: Any = types.ModuleType("made_here")
    monkeypatch.setitem(sys.modules, "made_here", module)
    exec("def function(): pass", vars(module))
    dumps(module.function)
    address = id(module.function)
    del module.function
    others: list[Any] = []
    while not others or (id(others[-1]) != address and len(others) < 1000):
        others.append(eval("lambda: 7", vars(module)))
    module.function = others[-1]
    assert through_a_file(module.function)() == 7


def test_functions_that_are_defined_again_are_not_kept() -> None:
    assert python("define_large_again").stdout.split() == ["1"]


def test_functions_and_classes_of_main_travel_to_other_scripts(shm_dir: Path) -> None:
    with FileConnector(shm_dir / "store") as owner:
        script = PROGRAMS / "put_what_main_defines.py"
        for words in (
            [script, owner.store_dir],
            ["-c", script.read_text(), owner.store_dir],
            [script, owner.store_dir, "in a spawned child"],
        ):
            key = subprocess.run(
                [sys.executable, *words],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
            ).stdout.strip()
            out = python("get_what_another_main_defines", owner.store_dir, key).stdout
            assert out.split() == ["1000.0"] * 3


def test_fork_waits_while_another_thread_imports_what_pickles_by_value() -> None:
    """Else the child would wait for that thread, which it does not have."""
    python("fork_while_cloudpickle_is_imported", timeout=20)


def test_fork_waits_while_another_thread_has_a_lock_of_cloudpickle() -> None:
    python("fork_while_a_lock_of_cloudpickle_is_held", timeout=20)


def test_a_launcher_runs_another_module_as_the_script(tmp_path: Path) -> None:
    """What `python -m` was told to run is asked again when there is another `__main__`."""
    (tmp_path / "launcher.py").write_text(
        "import runpy\n"
        "from fsexchange.serialize import deserialize, dumps\n"
        "if __name__ == '__main__':\n"
        "    deserialize(dumps({1: 'x'}))\n"
        "    runpy.run_module('target', run_name='__main__', alter_sys=True)\n"
    )
    (tmp_path / "target.py").write_text(
        "import subprocess, sys\n"
        "from fsexchange.serialize import deserialize\n"
        "class Own: pass\n"
        "writes = 'import sys, target; from fsexchange.serialize import dumps; '"
        " 'sys.stdout.buffer.write(dumps(target.Own()))'\n"
        "if __name__ == '__main__':\n"
        "    data = subprocess.check_output([sys.executable, '-c', writes])\n"
        "    assert isinstance(deserialize(data), Own)\n"
        "    assert 'target' not in sys.modules\n"
    )
    for module in ("launcher", "target"):
        subprocess.run(
            [sys.executable, "-m", module],
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )


def test_a_script_whose_name_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "n\udcff.py").write_text(
        "from fsexchange.serialize import deserialize, dumps\n"
        "class Own: pass\n"
        "if __name__ == '__main__':\n"
        "    assert type(deserialize(dumps(Own()))) is Own\n"
        "    big = {1: [float(n) for n in range(9000)], 2: bytes(300_000)}\n"
        "    assert deserialize(dumps(big)) == big\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "n\udcff"], check=True, cwd=tmp_path, env=env)


def test_a_script_that_is_run_by_its_name_loads_long_objects() -> None:
    assert int(python("load_long_objects").stdout) < 48  # the object has 33


LOCK = threading.Lock()


def test_classes_of_main_are_the_same_in_processes_of_one_script() -> None:
    script = PROGRAMS / "compare_what_main_defines.py"
    out = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert out.stdout.splitlines() == ["fork True True True", "spawn True True True"], out.stderr


def test_classes_of_a_script_travel_without_the_data_that_they_mention(shm_dir: Path) -> None:
    script = PROGRAMS / "put_what_mentions_data.py"
    with FileConnector(shm_dir / "store") as owner:
        done = subprocess.run(
            [sys.executable, script, owner.store_dir], capture_output=True, text=True, timeout=60
        )
        assert not done.stderr
        sendable, unsendable, _ = done.stdout.split()
        out = python("get_what_mentions_data", owner.store_dir, sendable, unsendable).stdout
    first, no_lock, no_table, refused = out.splitlines()
    assert first == "7 5 14 Point(x=1, y='a')"
    assert "'lock' is not defined" in no_lock
    assert "'table' is not defined" in no_table
    assert f"needs Unsendable of the script {script}" in refused


def test_a_script_run_as_a_module_is_that_module(shm_dir: Path) -> None:
    """In both directions, to processes that can import it."""
    with FileConnector(shm_dir / "store") as owner:
        key = python("step_of_a_package", owner.store_dir).stdout.strip()
        answer = python("import_step_of_a_package", owner.store_dir, key).stdout.strip()
        assert python("step_of_a_package", owner.store_dir, answer).stdout == "True True\n"


def test_a_script_that_has_no_guard_is_not_imported(shm_dir: Path) -> None:
    """That would run it again, in the reader."""
    with FileConnector(shm_dir / "store") as owner:
        key = python("step_without_a_guard", owner.store_dir).stdout.strip()
        data = owner.get(FileKey.parse(key))
    assert data is not None
    assert type(deserialize(data)[0]).__name__ == "Result"
    assert "tests.programs.step_without_a_guard" not in sys.modules


def test_definitions_are_made_once_and_again_when_what_they_mention_changes(shm_dir: Path) -> None:
    with FileConnector(shm_dir / "store") as owner:
        keys = python("define_again", owner.store_dir).stdout.split()
        out = python("get_what_was_defined_again", owner.store_dir, *keys).stdout
    assert out.split() == ["6", "15", "-3"]


class Moves:
    """Hands its data over when it is asked for its state."""

    def __init__(self) -> None:
        self.data: Any = [1, 2, 3]

    def __getstate__(self) -> Any:
        data, self.data = self.data, None
        return {"data": data}


def test_every_object_is_asked_for_its_state_once() -> None:
    class Local:
        pass

    for other in (lambda: 1, Local(), Local):
        got = through_a_file([Moves(), other, Moves()])
        assert [got[0].data, got[2].data] == [[1, 2, 3]] * 2
    moves = Moves()
    with pytest.raises(SerializationError):
        serialize([LOCK, moves])
    assert moves.data


class Unhashable(type):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(cls, other: object) -> bool:
        return cls is other


class Bare:
    pass


class RefusesQuestions(dict[str, Any]):
    def __contains__(self, key: object) -> bool:
        raise KeyError("refused")


def test_objects_whose_classes_refuse_what_is_asked_are_serialization_errors() -> None:
    refuses = Bare()
    serialize(refuses)
    refuses.__dict__ = RefusesQuestions(data=1)
    unhashable = Unhashable("A", (), {})()
    for _ in range(3):
        for obj in (refuses, unhashable, [refuses]):
            for made in (serialize, dumps):
                with pytest.raises(SerializationError, match="refused|unhashable"):
                    made(obj)
        assert through_a_file([Moves(), 1])[0].data == [1, 2, 3]  # by a pickler that is whole


def test_what_interrupts_a_question_about_an_object_comes_out() -> None:
    class Masked(np.ndarray[Any, Any]):
        @property
        def _hardmask(self) -> bool:
            raise KeyboardInterrupt

    Masked.__name__ = "MaskedArray"
    array = np.arange(3.0).view(Masked)
    # In Python nothing of such a class is asked.
    asked = subclasses.reduce_array is not subclasses._reduce_array
    with pytest.raises(KeyboardInterrupt) if asked else contextlib.nullcontext():
        assert np.array_equal(through_a_file([array])[0], np.arange(3.0))


def test_what_is_known_of_a_class_may_go_while_it_is_used(shm_dir: Path) -> None:
    """As when a notebook has defined thousands of classes."""
    python("forget_classes_in_a_question")


def test_arrays_in_containers_are_writable_whatever_they_were() -> None:
    read_only = np.arange(1000.0)
    read_only.flags.writeable = False
    for array in (read_only, read_only[:10], np.zeros((0, 3)), read_only.reshape(10, 100).T):
        got = through_a_file({"a": array})["a"]
        assert got.flags.writeable
        np.testing.assert_array_equal(got, array)
    frames = [np.frombuffer(frame, np.uint8) for frame in serialize([read_only]) if len(frame)]
    assert any(np.shares_memory(frame, read_only) for frame in frames)


def test_memoryviews_in_containers_keep_format_and_shape() -> None:
    for view in (memoryview(b"abc"), BASE.data, np.zeros(1000).data):
        got = through_a_file([view, lambda: 1])[0]
        assert type(got) is memoryview
        assert (got.format, got.shape, got) == (view.format, view.shape, view)
    structured = np.array([(1.5, 2)], "f8,i8").data
    assert through_a_file(structured).format == structured.format
    for bad in (np.array([None]).data, [np.array([None]).data]):
        with pytest.raises(SerializationError):
            serialize(bad)


@pytest.mark.parametrize("size", [0, 10, 1000])
@pytest.mark.parametrize("kind", ["f8", ">f8", "i4,f8", "U3"])
def test_masked_arrays_keep_all_that_they_are(size: int, kind: str) -> None:
    """Pickle loses a hard mask, and that there is none."""
    for mask, hard in ((np.ma.nomask, False), (np.ma.nomask, True), (False, False), (True, True)):
        array: Any = np.ma.MaskedArray(np.zeros(size, kind), mask=mask, hard_mask=hard)
        got = deserialize(bytearray(dumps(array)))
        assert type(got) is type(array)
        assert got.dtype == array.dtype
        assert got.hardmask == hard
        assert (got.mask is np.ma.nomask) == (array.mask is np.ma.nomask)
        assert got.fill_value == array.fill_value
        assert np.array_equal(np.ma.getmaskarray(got), np.ma.getmaskarray(array))
        assert got.flags.writeable


def test_masked_arrays_are_not_copied() -> None:
    array: Any = np.ma.MaskedArray(np.zeros(1 << 17), mask=np.zeros(1 << 17, bool), hard_mask=True)
    assert len(serialize(array)[0]) < 2000
    assert through_a_file(array).hardmask
    data = bytearray(b"".join(serialize([array])))
    got = deserialize(data)[0]
    for part in (got.data, got.mask):
        assert np.shares_memory(part, np.frombuffer(data, np.uint8))


def test_changed_count_of_buffers_is_refused_at_once() -> None:
    data = bytearray(dumps(np.zeros(1 << 20)))
    data[24:28] = b"\xff" * 4
    with pytest.raises(CorruptObjectError):
        deserialize(data)


@pytest.mark.parametrize("obj", [LOCK, [sys.stdout], lambda lock=LOCK: lock])
def test_what_cannot_be_pickled_is_named(obj: Any) -> None:
    with pytest.raises(SerializationError, match="cannot serialize a .*(lock|list|function)"):
        serialize(obj)


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


def with_an_unbound_variable() -> Any:
    unbound: int

    def inner() -> Any:
        return unbound, LOCK

    if not LOCK:
        unbound = 1
    return inner


class Refuses:
    def __getstate__(self) -> Any:
        raise KeyError("no state")


@pytest.mark.parametrize(
    ("obj", "said"),
    [
        (
            {"model": Point(1, [Slotted({"x": LOCK})])},
            r"_thread.lock.*, at \['model'\].y\[0\].inner\['x'\]$",
        ),
        ([1, lambda lock=LOCK: lock], r", at \[1\]'s default 0$"),
        ([lambda: repr(LOCK)], r"_thread.lock.*, at \[0\]'s global LOCK$"),
        ({3: (Refuses(),)}, r"KeyError: 'no state', at \[3\]\[0\]$"),
        ([with_an_unbound_variable()], r"_thread.lock.*, at \[0\]'s global LOCK$"),
        ([LOCK], r"serialize a builtins.list: cannot pickle '_thread.lock' object, at \[0\]$"),
        ([{"log": open(__file__)}], r"TextIOWrapper.*, at \[0\]\['log'\]$"),  # noqa: SIM115
    ],
)
def test_error_says_where_in_the_object(obj: Any, said: str) -> None:
    with pytest.raises(SerializationError, match=said):
        serialize(obj)
    for part in obj if isinstance(obj, list) else ():
        if isinstance(part, dict):
            part["log"].close()


class TooLarge:
    def __reduce__(self) -> Any:
        raise MemoryError


def test_lack_of_memory_is_said_as_it_is() -> None:
    with pytest.raises(MemoryError):
        serialize([TooLarge()])


class Loads:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise state["error"]


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), AttributeError("x"), ValueError(1), TypeError(), IndexError()],
    ids=repr,
)
def test_error_of_loading_says_key_type_and_place(error: Exception) -> None:
    with Store() as store:
        for key in (store.put([Loads(error)]), *store.put_batch([Loads(error), 1])[:1]):
            for get in (store.get, lambda key: store.get_batch([key])):
                with pytest.raises(SerializationError) as caught:
                    get(key)
                said = str(caught.value)
                assert said.startswith(f"{key} in the store at {store.store_dir}: cannot load")
                assert type(error).__name__ in said
                assert f"{__name__}.Loads.__setstate__ ({__file__}:" in said
                assert caught.value.key == str(key)
                assert type(caught.value.__cause__) is type(error)
        assert deserialize(dumps(Loads)) is Loads


def test_broadcast_arrays_are_written_once() -> None:
    column = np.arange(1000.0)[:, None]
    array = np.broadcast_to(column, (5, 1000, 100))
    for obj in (array, [array], {"a": array.transpose(2, 1, 0)}, array[:, ::2]):
        assert len(dumps(obj)) < 20_000
    for got, wanted in zip(through_a_file([array, array.T]), (array, array.T), strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.strides == wanted.strides
    np.testing.assert_array_equal(through_a_file(array), array)
    writable = np.lib.stride_tricks.as_strided(np.arange(1000.0), (9, 1000), (0, 8))
    assert through_a_file(writable).flags.writeable


def test_class_that_is_not_importable_here_is_named(shm_dir: Path) -> None:
    (shm_dir / "theirs.py").write_text("class Theirs: pass\n")
    with FileConnector(shm_dir / "store") as connector:
        key = python("put_what_only_it_imports", connector.store_dir, shm_dir).stdout
        got = connector.get(FileKey.parse(key))
        assert got is not None
        with pytest.raises(SerializationError, match=r"cannot import.*theirs"):
            deserialize(got)


# ---- what is not whole ---------------------------------------------------------------------------

SAMPLES = {
    "array": np.arange(1000.0),
    "bytes": b"x" * 3000,
    "text": "x" * 3000,
    "pickle": {"a": [1, 2, 3], "b": "c" * 300},
    "pickle with buffers": [np.arange(1000.0), np.arange(500.0)],
    "none": None,
}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_truncated_object_is_an_error(sample: Any) -> None:
    data = dumps(sample)
    for size in {0, 1, 5, 31, 32, 40, len(data) // 2, len(data) - 1}:
        if size < len(data):
            with pytest.raises(CorruptObjectError):
                deserialize(data[:size])
    with pytest.raises(CorruptObjectError):
        deserialize(data + b"\0")


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_any_changed_bit_of_header_and_body_is_an_error(sample: Any) -> None:
    """With a checksum, of all but the padding."""
    for checksum in (False, True):
        data = dumps(sample, checksum=checksum)
        total = guarded = len(data)
        count = 0
        if data[5] != 6:
            body, count = struct.unpack("<QI", data[16:28])
            guarded = 32 + 8 * count + body
        places = list(range(guarded))
        if checksum:
            places += list(range(guarded + -guarded % 64, total, 97)) if count else []
        for place in places:
            changed = bytearray(data)
            changed[place] ^= 1 << place % 8
            with pytest.raises((CorruptObjectError, SerializationError)):
                deserialize(changed)


def test_foreign_bytes_are_an_error() -> None:
    for foreign in (b"", b"hello", bytes(1000), b"\x80\x05N.", b"PK\x03\x04" * 100):
        with pytest.raises(CorruptObjectError, match="not an fsexchange object"):
            deserialize(foreign)


def test_newer_version_is_refused_by_name() -> None:
    data = bytearray(dumps([1, 2]))
    data[4] = 7
    with pytest.raises(SerializationError, match="version 7.*up to version 2.*upgrade"):
        deserialize(data)


def test_format_is_what_the_module_says() -> None:
    """By hand, from the table at the top of the module."""
    content = struct.pack("<3h", 1, 2, 3)
    body = b"C" + bytes([1]) + struct.pack("<Q", 3) + b"<i2"
    table = struct.pack("<Q", len(content))
    start = 32 + len(table) + len(body)
    start += -start % 64
    head = struct.pack("<4sBBHQQI", b"\x93FSX", 1, 4, 0, start + 6, len(body), 1)
    crc = zlib.crc32(table + body, zlib.crc32(head))
    data = (head + struct.pack("<I", crc) + table + body).ljust(start, b"\0") + content
    assert deserialize(data).tolist() == [1, 2, 3]
    assert dumps(np.array([1, 2, 3], "<i2")) == data


# ---- objects of earlier versions ----------------------------------------------------------------


def test_objects_written_before_the_packages_are_read() -> None:
    """By `tests/data/flat_modules.py`."""
    data = (Path(__file__).parent / "data" / "flat_modules.bin").read_bytes()
    assert b"fsexchange.keys" in data
    got = deserialize(bytearray(data))
    failure, of_a_script = got.pop("failure").exception(), got.pop("class")
    assert (type(failure), str(failure)) == (ValueError, "diverged at step 9")
    assert of_a_script.colour == "red"
    wanted = written()
    assert list(map(type, got.values())) == list(map(type, wanted.values()))
    for name in ("array", "strided", "masked", "record"):
        assert got[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(got[name], wanted[name])
    np.testing.assert_array_equal(got["masked"].mask, wanted["masked"].mask)
    for name in ("memoryview", "key"):
        assert got[name] == wanted[name]
    assert vars(got["error"]) == vars(wanted["error"])


def test_handles_written_before_the_packages_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: dict[str, type] = {
        "fsexchange.future": Future,
        "fsexchange.keys": FileKey,
        "fsexchange.ref": Ref,
    }
    with Store() as store:
        handles = [store.ref([1]), store.future()]
        with monkeypatch.context() as then:
            then.setattr(Store, "__module__", "fsexchange.store")
            for name, kind in moved.items():
                module = types.ModuleType(name)
                setattr(module, kind.__name__, kind)
                then.setitem(sys.modules, name, module)
                then.setattr(kind, "__module__", name)
            data = dumps(handles)
        assert all(name.encode() in data for name in moved)
        assert b"fsexchange.store.store" not in data
        got = deserialize(data)
        assert got == handles
        assert got[0].get() == [1]


@pytest.mark.parametrize("kind", [FileKey, Future, Ref], ids=lambda kind: kind.__name__)
def test_pickles_made_before_the_packages_are_read_by_pickle_alone(kind: type) -> None:
    module = {"FileKey": "keys", "Future": "future", "Ref": "ref"}[kind.__name__]
    assert pickle.loads(f"cfsexchange.{module}\n{kind.__name__}\n.".encode()) is kind


def test_pickles_name_functions_by_their_package() -> None:
    """So that these functions may move."""
    masked: Any = np.ma.MaskedArray([1, 2])
    with Store() as store:
        failed = store.future()
        failed.set_exception(ValueError())
        failure = deserialize(store.connector.get(failed.ref.key) or b"")
        data = dumps([np.arange(3), masked, np.zeros(3).view(Tagged), BASE.data, store, failure])
    for module in ("format", "arrays", "pickling", "by_value"):
        assert b"fsexchange.serialize." + module.encode() not in data
    assert b"fsexchange.store.failure" not in data


# ---- .npy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, a in ARRAYS.items() if not a.dtype.hasobject])
def test_npy_file_is_taken(name: str, tmp_path: Path) -> None:
    array = ARRAYS[name]
    np.save(tmp_path / "x.npy", array)
    got = deserialize((tmp_path / "x.npy").read_bytes())
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


def test_npy_file_is_not_copied_and_must_be_whole() -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.arange(1000.0), version=(2, 0))
    buffer = bytearray(file.getvalue())
    got = deserialize(buffer)
    got[0] = 5
    assert deserialize(buffer)[0] == 5
    for size in (7, 20, 100, len(buffer) - 1):
        with pytest.raises(CorruptObjectError):
            deserialize(buffer[:size])
    file = io.BytesIO()
    np.save(file, np.array([None]))
    with pytest.raises(SerializationError, match="Python objects"):
        deserialize(file.getvalue())


@pytest.mark.parametrize("dtype", [">f8", "<f8", "?", "f2", "c16", "S3", "U2", "M8[D]", "V5"])
def test_the_second_of_a_kind_is_as_the_first(dtype: str) -> None:
    """Whose header is known by then."""
    orders: list[Any] = ["C", "F"]
    for order in orders:
        for n in range(3):
            array = np.arange(n, n + 6).reshape(2, 3).astype(dtype, order=order)
            got = deserialize(bytearray(dumps(array)))
            assert got.dtype == array.dtype
            assert got.flags.f_contiguous == array.flags.f_contiguous
            assert got.tobytes() == array.tobytes()
            assert got.flags.writeable
            read_only = array.copy(order)
            read_only.flags.writeable = False
            assert deserialize(bytearray(dumps(read_only))).tobytes() == array.tobytes()


def test_heads_of_ever_new_shapes_take_no_memory() -> None:
    """They are kept for the latest 256 shapes and types, whoever made or read the arrays."""
    for n in range(1, 1000):
        data = bytearray(dumps(np.zeros((n, 3))))
        assert deserialize(data).shape == (n, 3)
        assert common_head([np.zeros((n, 5))] * 2)
        assert len(HEAD_OF) <= 256
        assert len(ARRAY_OF) <= 256
    assert HEAD_OF
    assert ARRAY_OF


def test_a_reducer_of_complex_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, complex, lambda number: (lambda *_: "reduced", ()))
    for obj in (1j, [1j], {"a": (1j,)}):
        assert "reduced" in str(deserialize(dumps(obj)))
        assert "reduced" in str(deserialize(b"".join(serialize(obj))))


class Alarming:
    """Gets a signal while it is pickled, or while it is loaded."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __getstate__(self) -> str:
        if self.when == "pickled":
            signal.raise_signal(signal.SIGALRM)
        return self.when

    def __setstate__(self, state: str) -> None:
        signal.raise_signal(signal.SIGALRM)


class Handler:
    def __call__(self, number: int, frame: Any) -> None:
        raise TimeoutError("it took too long")

    def method(self, number: int, frame: Any) -> None:
        raise TimeoutError("it took too long")

    def more(self, first: int, number: int, frame: Any) -> None:
        self.method(number, frame)


HANDLERS = {
    "object": Handler(),
    "method": Handler().method,
    "partial": functools.partial(Handler().more, 1),
    "lambda": lambda *_: Handler().method(*_),
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS.keys())
def test_what_the_handler_of_a_signal_raises_is_not_of_the_object(handler: Any) -> None:
    kept = [dumps(Alarming("loaded")), dumps([np.ones(100_000), Alarming("loaded")])]
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for obj in (Alarming("pickled"), [np.ones(3), Alarming("pickled")]):
            for way in (dumps, serialize):
                with pytest.raises(TimeoutError, match="too long"):
                    way(obj)
        for data in kept:
            with pytest.raises(TimeoutError, match="too long"):
                deserialize(data)
        with pytest.raises(SerializationError, match="ValueError"):
            dumps([Raising()])
    finally:
        signal.signal(signal.SIGALRM, before)


def test_what_an_error_of_a_handler_has_caused_is_of_the_handler() -> None:
    def wrapped() -> None:
        try:
            signal.raise_signal(signal.SIGALRM)
        except TimeoutError as error:
            raise ValueError("no answer") from error

    before = signal.signal(signal.SIGALRM, Handler())
    try:
        with pytest.raises(ValueError, match="no answer") as caught:
            wrapped()
        assert is_of_handler(caught.value)
        assert not is_of_handler(ValueError("no answer"))
    finally:
        signal.signal(signal.SIGALRM, before)


class Raising:
    def __reduce__(self) -> Any:
        signal.Signals(-5)  # by code of enum, as what stands for no handler is one
        raise AssertionError
