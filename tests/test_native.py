"""What is in C does what the same does in Python, where there was no C compiler."""

from __future__ import annotations

import gc
import os
import pickle
import random
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from fsexchange.connector.keys import FileKey
from fsexchange.errors import CorruptObjectError, SerializationError
from fsexchange.filesystem import files
from fsexchange.serialize import deserialize, dumps, instances, pickling, subclasses
from fsexchange.serialize.format import (
    PICKLE,
    SMALL_START,
    _frames,
    pack_small,
    parse,
    proven_small,
)
from fsexchange.serialize.simple import is_simple_in_python, simple_pickle_in_python

from .cli import environment
from .processes import ROOT

try:
    from fsexchange.connector._native import put_own, read_own
    from fsexchange.filesystem._native import create, read_whole
    from fsexchange.serialize import _native
    from fsexchange.serialize._native import framed
except ImportError:  # `test_packaging` says if it should be
    pytest.skip("what is in C is not built here", allow_module_level=True)

WITHOUT_C = ROOT / "scripts" / "without_c"


class Text(str):
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise AssertionError("it was pickled")


class Two(NamedTuple):
    a: int
    b: int


def value(choose: random.Random, depth: int = 0) -> Any:
    """Return a random object, most of them simple."""
    size = choose.choice([0, 1, 2, 3, 7, 20, 255, 256, 300])
    scalars: list[Callable[[], Any]] = [
        lambda: None,
        lambda: choose.random() < 0.5,
        lambda: choose.randrange(-(1 << choose.randrange(1, 80)), 1 << choose.randrange(1, 80)),
        choose.random,
        lambda: complex(choose.random(), 1),
        lambda: "a" * size,
        lambda: "\u00e9\U0001f600" * size,
        lambda: bytes(size),
        lambda: bytearray(size),
        lambda: Text("a") if choose.random() < 0.1 else 1,
        lambda: Two(1, 2) if choose.random() < 0.1 else 2,
        lambda: "\ud800" if choose.random() < 0.1 else 3,
    ]
    if depth == 4 or choose.random() < 0.5:
        return choose.choice(scalars)()
    few = choose.randrange(6)
    items = [value(choose, depth + 1) for _ in range(few)]
    if choose.random() < 0.3:
        items = items * choose.randrange(1, 40)  # the pickle names them again
    make: Callable[[], Any] = choose.choice(
        [
            lambda: items,
            lambda: tuple(items),
            lambda: dict(enumerate(items)),
            lambda: {str(n): each for n, each in enumerate(items)},
            lambda: OrderedDict.fromkeys(range(few)) if choose.random() < 0.1 else [],
        ]
    )
    return make()


def test_what_is_simple_has_so_short_a_pickle_and_names_nothing() -> None:
    choose = random.Random(1)
    seen = in_python = 0
    for _ in range(20_000):
        obj, most = value(choose), choose.choice([40, 100, 500, 3072, 16384])
        if is_simple_in_python(obj, most):
            in_python += 1
            made = simple_pickle_in_python(obj, most)
            assert made is not None
            assert made == pickle.dumps(obj, 5)
            assert len(made) <= most
            assert _native.is_simple(obj, most) or "\\ud800" in ascii(obj)
        else:
            assert simple_pickle_in_python(obj, most) is None
        made = _native.simple_pickle(obj, most)
        assert _native.is_simple(obj, most) == (made is not None)
        if made is not None:
            seen += 1
            assert made == pickle.dumps(obj, 5)
            assert len(made) <= most
            assert b"tests" not in made
    assert in_python > 2000
    assert seen > in_python + 1000


def test_a_list_in_itself_is_not_simple_nor_looked_at_for_ever() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for obj in (loop, deep, {"a": loop}, (loop, loop)):
        assert not _native.is_simple(obj, 1 << 30)
        assert _native.simple_pickle(obj, 1 << 30) is None
        assert not is_simple_in_python(obj, 1 << 30)
    del deep[:]


FUNCTIONS = (
    "is_simple",
    "simple_pickle",
    "loaded",
    "has_attributes",
    "parsed",
    "pickle_of_plain",
    "small_frame",
    "_ndarray",
)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_wrong_arguments_are_errors(function: str) -> None:
    call = getattr(_native, function)
    for wrong in ((), (1,), (1, 2, 3), ("a", "b"), ("a", ((),)), ("a", (("b",),)), ("a", (1,))):
        with pytest.raises((TypeError, IndexError, SystemError)):
            call(*wrong)
    with pytest.raises(TypeError):
        _native.asking(pickle.Pickler)  # type: ignore[call-arg]


@pytest.mark.parametrize("section", [b"", b"a section"])
def test_a_small_pickle_is_loaded_if_it_is_whole(section: bytes) -> None:
    body = pickle.dumps({"a": 1.5}, 5)
    whole = pack_small(SMALL_START, zlib.crc32(body, len(body)), len(body), len(body + section))
    whole += body + section
    crc32 = zlib.crc32
    assert _native.small_frame(body, crc32, section) == whole
    assert section or _native.small_frame(body, crc32) == whole
    for kind in (bytes, bytearray):
        assert proven_small(kind(whole)) == body
        for seen in (section, section[:4]):
            assert _native.loaded(kind(whole), crc32, seen, b"") == {"a": 1.5}
        for damaged in (
            *[whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in range(20 + len(body))],
            *[whole[:n] for n in range(len(whole))],
            whole + b"more",
        ):
            assert _native.loaded(kind(damaged), crc32, section, b"") is NotImplemented
            if len(damaged) >= 8 and damaged[:8] == whole[:8]:
                with pytest.raises(CorruptObjectError):
                    proven_small(kind(damaged))
    for other in (memoryview(whole), "text", None, whole * 2):
        assert _native.loaded(other, crc32, section, b"") is NotImplemented
    if section:
        for seen in (b"", b"another", section + b" of more"):
            assert _native.loaded(whole, crc32, seen, b"") is NotImplemented

    def fails(data: bytes, start: int) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _native.small_frame(body, fails)
    for wrong in ((bytearray(body), crc32), (body, crc32, bytearray(section))):
        with pytest.raises(TypeError):
            _native.small_frame(*wrong)
    with pytest.raises(ZeroDivisionError):
        _native.loaded(whole, fails, section, b"")
    with pytest.raises(TypeError):
        _native.loaded(whole, lambda data, start: "no number", section, b"")  # type: ignore[arg-type, return-value]


def test_a_small_pickle_in_pieces_is_framed_as_in_one() -> None:
    crc32, long = zlib.crc32, os.urandom(70_000)
    each_of: list[list[Any]] = [
        [b"a"],
        [b"ab", long, b"c"],
        [long],
        [long, b"d"],
        [memoryview(b"e"), long],
    ]
    for pieces in each_of:
        for section in (b"", b"a section"):
            frames = _native.small_frames(pieces, section, crc32)
            assert b"".join(frames) == _native.small_frame(b"".join(pieces), crc32, section)
            rest = [each for each in (*pieces, section) if each]
            assert all(each is frames[n - len(rest)] for n, each in enumerate(rest) if n)

    def fails(data: bytes, start: int) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _native.small_frames([b"a"], b"", fails)
    wrongs: list[Any] = [(), ([None], b"", crc32), ([b"a"], "", crc32), ([b"a"], b"", str)]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            _native.small_frames(*wrong)


def test_a_crc_whose_registers_are_cleaned_is_the_same() -> None:
    crc32 = _native.cleaning(zlib.crc32)
    for data in (b"", b"a", os.urandom(100), memoryview(os.urandom(70_000)), bytearray(5000)):
        assert crc32(data) == zlib.crc32(data)
        assert crc32(data, 1 << 31) == zlib.crc32(data, 1 << 31)
    wrongs: list[Any] = [(), ("text",), (b"a", "b"), (b"a", 1, 2)]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            crc32(*wrong)


def test_what_may_have_a_name_is_not_loaded_at_once() -> None:
    for obj in (["a name", 1.5], ["a name", Decimal(1)], ["a name", np.zeros(5000)]):
        whole = dumps(obj)
        assert _native.loaded(whole, zlib.crc32, b"", b"a name") is NotImplemented
        for name in (b"", b"b name"):
            loaded = _native.loaded(whole, zlib.crc32, b"", name)
            assert pickle.dumps(loaded) == pickle.dumps(obj)
    assert _native.loaded(dumps(np.zeros(5000)), zlib.crc32, b"", b"") is NotImplemented
    long = dumps([np.zeros(1 << 17)])  # of which small buffers may have to be copied
    assert _native.loaded(long, zlib.crc32, b"", b"") is NotImplemented


@pytest.mark.parametrize("sizes", [[4096], [5000, 0, 1], [0], [], [4097] * 9])
def test_an_object_with_buffers_is_read_if_it_is_whole(sizes: list[int]) -> None:
    body, crc32 = pickle.dumps(["an object", 1.5], 5), zlib.crc32
    data = [memoryview(os.urandom(size)) for size in sizes]
    whole = b"".join(framed(body, data, crc32))
    found = _native.parsed(memoryview(whole), crc32)
    assert found is not None
    assert found == (body, data)
    assert tuple(parse(memoryview(whole))[1:3]) == found
    assert all(each.obj is whole for each in found[1])
    proven = 32 + 8 * len(sizes) + len(body)
    for damaged in (
        *[whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in range(proven)],
        *[whole[:n] for n in range(proven)],
        whole[:-1],
        whole + b"more",
    ):
        assert _native.parsed(memoryview(damaged), crc32) is None
        with pytest.raises((CorruptObjectError, SerializationError)):
            parse(memoryview(damaged))
    # What the CRC guards may have been made by somebody who means harm.
    if sizes:
        for lie in (0, 1 << 40, 2**64 - 1, len(whole)):
            wrong = bytearray(whole)
            wrong[32:40] = lie.to_bytes(8, "little")
            wrong[28:32] = crc32(wrong[:28] + wrong[32:proven]).to_bytes(4, "little")
            if lie != sizes[0]:
                assert _native.parsed(memoryview(wrong), crc32) is None
    for count in (1 << 20, 2**32 - 1):
        wrong = bytearray(whole)
        wrong[24:28] = count.to_bytes(4, "little")
        assert _native.parsed(memoryview(wrong), crc32) is None
    strided: Any = memoryview(whole)[::2]
    with pytest.raises(BufferError):
        _native.parsed(strided, crc32)

    def fails(*_: Any) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _native.parsed(memoryview(whole), fails)
    with pytest.raises(TypeError):
        _native.parsed(memoryview(whole), lambda data: "no number")  # type: ignore[arg-type, return-value]


class Named(np.ndarray[Any, Any]):
    pass


class Raises(np.ndarray[Any, Any]):
    @property
    def nbytes(self) -> int:
        raise ZeroDivisionError


class Says(np.ndarray[Any, Any]):
    @property
    def nbytes(self) -> Any:
        return self.said

    said: Any = np.int64(24)


def _arrays() -> Iterator[Any]:
    metadata = np.dtype("f8", metadata={"unit": "m"})
    dtypes: list[Any] = [*"?bBhHiIlLqQefdgFDGOSUmM", ">f8", [("a", "i4"), ("b", "f8")], metadata]
    for dtype in dtypes:
        for shape in ((), (0,), (3,), (40, 50), (100, 200)):
            array: Any = np.zeros(shape, dtype if dtype not in ("m", "M") else f"{dtype}8[s]")
            yield array
            yield array.T
            yield array[..., ::2] if shape else array
            yield array.view(Named)
            yield np.ma.MaskedArray(array) if dtype != "O" else array
            fixed = array.copy()
            fixed.flags.writeable = False
            yield fixed
    yield np.broadcast_to(np.zeros(3), (4000, 3))
    yield np.zeros(40_000).view(Named)


def test_arrays_are_reduced_as_in_python() -> None:
    def told(reduced: Any) -> Any:
        if reduced is NotImplemented:
            return reduced
        function, (data, *arguments) = reduced
        if isinstance(data, pickle.PickleBuffer):
            raw = data.raw()
            data = np.frombuffer(raw, np.uint8).ctypes.data if len(raw) else b"", len(raw)
        elif isinstance(data, np.ndarray):
            data = data.__array_interface__["data"], data.shape, data.strides, data.dtype
        return function, type(data), data, str(arguments)

    seen = set()
    for array in _arrays():
        pickler: Any = None
        found = told(subclasses.reduce_array(pickler, array))
        assert found == told(subclasses._reduce_array(pickler, array))
        seen.add(found if found is NotImplemented else found[:2])
    assert len(seen) == 6
    for wrong in (None, "text", 1.5, np.dtype("f8")):
        with pytest.raises(AttributeError):
            subclasses.reduce_array(pickler, wrong)
    for reduce in (subclasses.reduce_array, subclasses._reduce_array):
        with pytest.raises(ZeroDivisionError):
            reduce(pickler, np.zeros(3).view(Raises))
        for said in (np.int64(24), 24.0, 24):
            Says.said = said
            assert reduce(pickler, np.zeros(3).view(Says)) is NotImplemented
        for said in (1e9, 1 << 70):
            Says.said = said
            assert reduce(pickler, np.zeros(3).view(Says)) is not NotImplemented


def test_arrays_are_loaded_as_in_python() -> None:
    dtypes: list[Any] = [*subclasses._NAMES.values(), np.dtype("f8"), np.dtype("i4, f8"), "<M8[s]"]
    for dtype in dtypes:
        itemsize = np.dtype(dtype).itemsize
        data = bytearray(os.urandom(6 * itemsize))
        orders: tuple[Any, ...] = ("C", "F")
        for order in orders:
            array = subclasses._ndarray(data, dtype, (2, 3), order)
            wanted: Any = np.ndarray((2, 3), dtype, data, order=order)
            assert array.dtype == wanted.dtype
            assert array.strides == wanted.strides
            assert np.shares_memory(array, wanted)
    with pytest.raises(TypeError, match="not understood|data type"):
        subclasses._ndarray(data, "no dtype", (2, 3), "C")
    with pytest.raises(TypeError):
        subclasses._ndarray(data, "<f8", (1 << 20,), "C")  # more than there is


def test_an_object_is_read_by_its_key_if_it_has_a_file_of_its_own(tmp_path: Path) -> None:
    writer, data = "0123456789abcdef", os.urandom(1000)
    (tmp_path / writer).mkdir()
    for name in ("7", "x"):
        (tmp_path / writer / name).write_bytes(data)
    folder, uid = os.fsencode(f"{tmp_path}/"), os.getuid()
    key: Any = FileKey(f"{writer}/7", 1000)
    for user in (-1, uid):
        assert read_own(key, FileKey, folder, 1001, user) == bytearray(data)
    others: list[Any] = [
        key._replace(offset=64),
        key._replace(nbytes=999),
        key._replace(nbytes=1001),
        key._replace(nbytes=-1),
        key._replace(nbytes=1 << 70),
        key._replace(nbytes=True),
        key._replace(nbytes="1000"),
        key._replace(filename=f"{writer}/x"),
        key._replace(filename=f"./{writer}/7"),
        key._replace(filename=f"../{tmp_path.name}/{writer}/7"),
        key._replace(filename=f"{writer}/"),
        key._replace(filename=f"{writer}/{'7' * 21}"),
        key._replace(filename=f"{writer}/7\0"),
        key._replace(filename="\ud800"),
        key._replace(filename=Text(f"{writer}/7")),
        key._replace(filename=None),
        tuple(key),
        key[:2],
        None,
    ]
    for other in others:
        assert read_own(other, FileKey, folder, 1001, uid) is None
    assert read_own(key, FileKey, folder, 1000, uid) is None
    assert read_own(key, FileKey, folder, 1001, uid + 1) is None
    assert read_own(key, FileKey, b"/" * 4096, 1001, uid) is None
    with pytest.raises(FileNotFoundError, match=f"{writer}/8"):
        read_own(key._replace(filename=f"{writer}/8"), FileKey, folder, 1001, uid)
    for wrong in ((), (key, FileKey, str(tmp_path), 1, 1), (key, FileKey, folder, "1", 1)):
        with pytest.raises(TypeError):
            read_own(*wrong)


def test_an_object_of_few_pieces_is_written_and_its_key_returned(tmp_path: Path) -> None:
    writer, folder = "0123456789abcdef", os.fsencode(f"{tmp_path}/")
    (tmp_path / writer).mkdir()
    array = np.arange(6.0).reshape(2, 3)
    objs: list[Any] = [
        b"bytes",
        b"",
        [],
        [b"a", b"", bytearray(b"b"), memoryview(b"c")],
        [array.data, np.array(1).data],
        [b"1"] * 8,
    ]
    for n, obj in enumerate(objs):
        key = put_own(obj, FileKey, folder, f"{writer}/{n}")
        pieces, nbytes = files.flatten(obj)
        assert key == (f"{writer}/{n}", nbytes, 0)
        assert type(key) is FileKey
        path = tmp_path / writer / str(n)
        assert path.read_bytes() == b"".join(pieces)
        assert path.stat().st_mode & 0o777 == 0o600
    before = sorted(tmp_path.rglob("*"))
    others: list[Any] = [
        "text",
        ["text"],
        [b"a", array.T.data],
        [array],
        [np.zeros(2, "M8[s]")],
        (b"a",),
        memoryview(b"a"),
        [b"1"] * 9,
        None,
    ]
    for obj in others:
        assert put_own(obj, FileKey, folder, f"{writer}/99") is None
    assert put_own(b"a", FileKey, folder, "a" * 5000) is None
    with pytest.raises(FileExistsError, match=f"{writer}/0"):
        put_own(b"a", FileKey, folder, f"{writer}/0")
    with pytest.raises(FileNotFoundError):
        put_own(b"a", FileKey, folder, "nothing/0")
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / writer / "0").read_bytes() == b"bytes"
    wrongs: list[Any] = [(), (b"a", FileKey, "folder", "0"), (b"a", None, folder, "0")]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            put_own(*wrong)


def test_a_pickler_that_made_a_small_pickle_is_as_good_as_new() -> None:
    taken = pickling._new()
    pieces, more = taken[3:5]
    names = [str(n) for n in range(100)]
    long: list[Any] = [bytes(70_000), "\u00e9" * 50_000, bytearray(80_000)]
    # A value whose end looks as if the opcodes behind it were one.
    values = [[n] for n in range(11_000)]
    _, _, opcodes, rest = map(len, pickling.pickled([bytes(70_000), values])[0])
    assert opcodes >= 1 << 16 > 500 > rest
    looks_long = [bytes(69_995) + b"B" + opcodes.to_bytes(4, "little"), values]
    kinds: tuple[tuple[Any, bool], ...] = (
        (Decimal("1.5"), True),
        (names, True),  # after which the memo is made anew, by whoever needs it
        ((Decimal(2), names[5]), False),
        (np.zeros(10_000), True),
        (long, True),
        (long * 2, True),
        ([Decimal(3), bytes(2000)], False),
        ([bytes(70_000) for _ in range(10)], False),  # in many pieces
        (looks_long, False),
        ([float(n) for n in range(10_000)], False),  # a long piece that is many values
    )
    for obj, is_small in kinds:
        made = _native.dump_small(taken, obj, 1000, 100)
        assert (made is not None) == is_small
        if made is not None:
            parts, buffers, named = ([made], [], ()) if isinstance(made, bytes) else made
            assert isinstance(made, bytes) == (not buffers and len(parts) == 1)
            assert not named
            loaded = pickle.loads(b"".join(parts), buffers=buffers)
            assert np.array_equal(loaded, obj) if isinstance(obj, np.ndarray) else loaded == obj
            assert pieces == more == []
            assert taken[-1] == (sum(len(each) for each in parts if len(each) < 1 << 16) > 100)
        else:
            made = b"".join(pieces)
            assert len(made) > 1000 or taken[-1]
            assert pickle.loads(made, buffers=more) == obj
            pickling._put_back(taken, len(made))
            taken = pickling._idle.pop()
            pieces, more = taken[3:5]
    wrongs: tuple[Any, ...] = ((), ([], 1, 2, 3), (taken, 1, 2), (taken, Decimal(1), "a", 2))
    for wrong in wrongs:
        with pytest.raises(TypeError):
            _native.dump_small(*wrong)
    with pytest.raises(TypeError, match="cannot pickle"):
        _native.dump_small(taken, [threading.Lock()], 1000, 100)


def test_attributes_are_compared_as_in_python() -> None:
    class Raises:
        @property
        def attribute(self) -> int:
            raise ZeroDivisionError

    for has in (_native.has_attributes, instances.has_attributes_in_python):
        assert has(object, instances.WAYS)
        assert has(Raises, instances.WAYS)
        assert not has(Text, instances.WAYS)
        assert has(1, (("real", 1), ("nothing", NotImplemented)))
        assert not has(1, (("real", NotImplemented),))
        assert not has(1, (("nothing", None),))
        with pytest.raises(ZeroDivisionError):
            has(Raises(), (("attribute", 1),))


def test_copies_to_new_memory() -> None:
    for nbytes in (0, 1, 4095, 1 << 15, (1 << 18) + 1, 1 << 20, (5 << 20) + 3):
        data = memoryview(np.random.default_rng(nbytes).bytes(nbytes + 1))[1:]
        assert _native.copied_to_new(bytes, data) == bytes(data)
        copy = _native.copied_to_new(bytearray, data)
        assert type(copy) is bytearray
        assert copy == bytes(data)
    with pytest.raises(BufferError):
        _native.copied_to_new(bytes, memoryview(b"abcd")[::2])
    with pytest.raises(TypeError):
        _native.copied_to_new(bytes, "text")  # type: ignore[arg-type]


def test_what_a_finalizer_changes_is_not_framed_as_simple() -> None:
    """Python up to 3.11 may collect garbage when it makes a pickler."""
    values: list[Any] = []

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            values.append(Two(1, 2))

    was = gc.get_threshold()
    try:
        for threshold in range(1, 40):
            gc.collect()
            values[:] = [1, 2]
            gc.disable()
            Cycle()
            gc.set_threshold(threshold, 1, 1)
            gc.enable()
            made = _native.simple_pickle(values, 5000)
            assert gc.isenabled()
            assert made is None or pickle.loads(made) == [1, 2]
            gc.disable()
            assert _native.simple_pickle([1], 5000)
            assert not gc.isenabled()
    finally:
        gc.set_threshold(*was)
        gc.enable()


@pytest.mark.parametrize("size", [1, 31, 32, 1000, 70_000])
@pytest.mark.parametrize("sizes", [[], [5000], [0, 1, 63, 64, 65, 0], [4096] * 700])
def test_frames_of_a_pickle_and_its_buffers(size: int, sizes: list[int]) -> None:
    choose = random.Random(size)
    body = choose.randbytes(size)
    buffers = [memoryview(choose.randbytes(nbytes)) for nbytes in sizes]
    frames = framed(body, buffers, zlib.crc32)
    assert b"".join(frames) == b"".join(_frames(PICKLE, [body], buffers, checksum=False))
    assert [frame for frame in frames if type(frame) is memoryview] == buffers
    assert all(frame is data for frame, data in zip(frames[1::2], buffers, strict=True))
    assert type(frames[0]) is bytes
    _, parsed, again, section, _ = parse(memoryview(b"".join(frames)))
    assert parsed == body
    assert again == buffers
    assert not section

    def fails(*_: Any) -> int:
        raise MemoryError

    with pytest.raises(MemoryError):
        framed(body, buffers, fails)
    for wrong in (lambda *_: "7", lambda *_: 1 << 80, None):
        with pytest.raises((TypeError, OverflowError)):
            framed(body, buffers, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        framed(body, [*buffers, 5], zlib.crc32)  # type: ignore[list-item]
    with pytest.raises(TypeError):
        framed(bytearray(body), buffers, zlib.crc32)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["step", "a.package.of.steps", "\u00e9\ud800"])
def test_a_name_is_found_in_a_pickle(name: str) -> None:
    encoded = name.encode("utf-8", "surrogatepass")
    for size in (0, 10, 1000, 50_000, 120_000):
        for obj in ([name, b"x" * size], ["x" * size, name], {bytes(size): [name]}, (name,) * 999):
            body = pickle.dumps(obj, 5)
            for form in (body, bytearray(body), memoryview(body)):
                assert _native.may_name(form, encoded)
        assert not _native.may_name(pickle.dumps(["x" * size, name[1:]], 5), encoded)
    assert _native.may_name(bytes(1 << 20), encoded)  # nobody looks for it there


def test_buffers_are_left_out_from_a_length_on() -> None:
    kept: list[Any] = []
    keep = _native.keeper(kept, 100)
    for nbytes in (0, 99, 100, 5000):
        datas: list[Any] = [bytes(nbytes), bytearray(nbytes), np.zeros((nbytes, 1), "u1")]
        for data in datas:
            stays = keep(pickle.PickleBuffer(data))
            assert stays is (nbytes < 100)
            if not stays:
                assert kept.pop().obj is data
    doubles: Any = np.arange(60.0).reshape(20, 3)
    assert keep(pickle.PickleBuffer(doubles)) is False
    assert bytes(kept.pop()) == doubles.tobytes()
    assert not kept
    with pytest.raises(BufferError):  # as `PickleBuffer.raw` says
        keep(pickle.PickleBuffer(doubles[::2, ::2]))
    for wrong in (b"", None):
        with pytest.raises(AttributeError):
            keep(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("nbytes", [0, 1, 1000, 1 << 16, (1 << 20) - 1])
def test_a_file_is_read_if_it_is_as_it_should_be(nbytes: int, tmp_path: Path) -> None:
    path = tmp_path / "a file \u00e9"
    data = bytearray(random.Random(1).randbytes(nbytes))
    path.write_bytes(data)
    uid = path.stat().st_uid
    for owner in (uid, -1):
        assert read_whole(str(path), nbytes, owner) == data
        for other in (nbytes - 1, nbytes + 1, nbytes + 5000):
            assert other < 0 or read_whole(str(path), other, owner) is None
    assert type(read_whole(str(path), nbytes, uid)) is bytearray
    assert read_whole(str(path), nbytes, uid + 1) is None
    with pytest.raises(FileNotFoundError) as missing:
        read_whole(f"{path}.", nbytes, uid)
    assert missing.value.filename == f"{path}."
    assert read_whole(str(tmp_path), nbytes, uid) is None
    for wrong in ("a\0b", "\ud800", 1, None):
        with pytest.raises((TypeError, ValueError)):
            read_whole(wrong, nbytes, uid)  # type: ignore[arg-type]
    assert not [name for name in os.listdir("/proc/self/fd") if _leads_to(name, path)]


def test_memory_that_is_read_into_is_used_again_only_if_nobody_has_it(tmp_path: Path) -> None:
    choose = random.Random(1)
    sizes = (1000, 16_384, 30_000, 40_000, 65_536, 70_000, 1 << 19)
    paths = {}
    for nbytes in sizes:
        paths[nbytes] = path = tmp_path / str(nbytes)
        path.write_bytes(choose.randbytes(nbytes))
    held: list[tuple[Any, bytes]] = []
    again = 0
    before = 0
    for _ in range(5000):
        nbytes = choose.choice(sizes)
        wanted = paths[nbytes].read_bytes()
        data = read_whole(str(paths[nbytes]), nbytes, -1)
        assert data is not None
        assert bytes(data) == wanted
        again += id(data) == before
        before = id(data)
        way = choose.randrange(8)
        if way == 0:
            held.append((data, wanted))
        elif way == 1:
            held.append((memoryview(data)[5:], wanted[5:]))
        elif way == 2:
            held.append((np.frombuffer(data, "u1", nbytes - 7, 7), wanted[7:]))
        elif way == 3:  # it is the caller's own
            data.clear()
        elif way == 4:
            del data[:9]
        elif way == 5:
            data += b"more"
        del data
        if len(held) > 8:
            assert [bytes(each) for each, _ in held] == [kept for _, kept in held]
            del held[: choose.randrange(9)]
    assert again > 100


def test_memory_that_its_owner_has_made_longer_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(70_000))
    (tmp_path / "small").write_bytes(b"small")
    tracemalloc.start()
    try:
        data = read_whole(str(path), 70_000, -1)
        assert data is not None
        data.extend(bytes(32 << 20))
        del data
        read_whole(str(tmp_path / "small"), 5, -1)
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


def test_threads_read_into_memory_of_their_own(tmp_path: Path) -> None:
    paths = []
    for n in range(4):
        paths.append(tmp_path / str(n))
        paths[-1].write_bytes(bytes([n]) * 60_000)

    def read(n: int) -> int:
        wrong = 0
        for _ in range(2000):
            wrong += bytes(read_whole(str(paths[n]), 60_000, -1) or b"") != bytes([n]) * 60_000
        return wrong

    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(read, range(4))] == [0] * 4


@pytest.mark.parametrize("count", [0, 1, 8, 9, 3000])
def test_a_file_is_created_of_all_pieces_or_not_at_all(count: int, tmp_path: Path) -> None:
    path = tmp_path / "a file \u00e9"
    choose = random.Random(count)
    pieces: list[Any] = [choose.randbytes(choose.choice([0, 1, 900])) for _ in range(count)]
    pieces[1::3] = map(bytearray, pieces[1::3])
    pieces[2::3] = [np.frombuffer(piece, np.uint8) for piece in pieces[2::3]]
    whole = b"".join(pieces)
    os.umask(before := os.umask(0o022))
    for form in (pieces, tuple(pieces)):
        create(str(path), form, len(whole))
        assert path.read_bytes() == whole
        assert path.stat().st_mode & 0o777 == 0o600 & ~before
        with pytest.raises(FileExistsError) as there:
            create(str(path), form, len(whole), 0o640)
        assert there.value.filename == str(path)
        assert path.read_bytes() == whole
        path.unlink()
    create(str(path), pieces, len(whole), 0o400)
    assert path.stat().st_mode & 0o777 == 0o400 & ~before
    path.unlink()
    with pytest.raises(FileNotFoundError):
        create(f"{path}/x", pieces, len(whole))
    for wrong in (len(whole) - 1, len(whole) + 1):  # another thread had it longer or shorter
        with pytest.raises(BufferError, match="another length"):
            create(str(path), pieces, wrong)
    with pytest.raises(TypeError):
        create(str(path), [*pieces, None], len(whole))  # type: ignore[list-item]
    for name in ("a\0b", "\ud800", 1, None):
        with pytest.raises((TypeError, ValueError)):
            create(name, pieces, len(whole))  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []
    for piece in pieces[1::3]:
        piece += b"x"  # no buffer is kept
    assert not [name for name in os.listdir("/proc/self/fd") if _leads_to(name, path)]


def _leads_to(name: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}") == str(path)
    except FileNotFoundError:
        return False


OBJECTS = """
import array, collections, dataclasses, datetime, decimal, enum, functools, hashlib, io, json
import pathlib, sys, typing
import numpy as np
from fsexchange.serialize import deserialize, dumps
from fsexchange.serialize.pickling import pickled

@dataclasses.dataclass
class Point:
    x: float
    y: object = None

@dataclasses.dataclass
class WithWays(Point):
    def __getstate__(self):
        return {"x": 3}

class Meta(type):
    pass

class OfMeta(metaclass=Meta):
    pass

class Slots:
    __slots__ = "a",
    def __init__(self):
        self.a = 1

class Color(enum.Enum):
    RED = 1

def function():
    return Point

class Key:
    def __hash__(self):
        return hash("__getstate__")
    def __eq__(self, other):
        raise ValueError("it was compared")

points = [Point(n, [n]) for n in range(12)]
special = Point(1)
special.__dict__["__reduce_ex__"] = lambda protocol: (int, ("7",))
strange = Point(1)
strange.__dict__["__reduce_ex__"] = lambda protocol: (int, ("8",))
strange.__dict__[Key()] = 1
T = typing.TypeVar("T")
objects = [
    1, "a", None, [1, [2, {"a": (3, b"b")}]], list(range(100)), {"a": Point}, points,
    [special], [strange],
    Point(1, "a"), Point(1, Point(2)), [WithWays(1), Point(2)], OfMeta, OfMeta(), [Slots()],
    Color.RED, function, [function, function], json.dumps, np.arange(3),
    [np.arange(1000.0), np.float32(1)], np.ma.masked_array([1, 2], [0, 1]),
    decimal.Decimal("1.5"), datetime.datetime(2026, 1, 1),
    collections.OrderedDict(a=1), collections.defaultdict(list), collections.deque([1]),
    pathlib.PurePath("a"), functools.partial(json.dumps, indent=1), array.array("d", [1.0]), T,
    {1, 2}, frozenset("a"), range(3), slice(1), b"b" * 5000, bytearray(5), Ellipsis, NotImplemented,
    [].append, str.upper, [type(None), type, int], sys.stdout, {}.keys(), object(), complex(1, 2),
]
made = hashlib.sha256()
for each in objects:
    for obj in (each, [each, each], each):
        pieces, buffers, named = pickled(obj)
        for data in (*pieces, *buffers, repr([each.__name__ for each in named]).encode()):
            made.update(data)
        data = dumps(obj)
        deserialize(data), deserialize(bytearray(data)), deserialize(memoryview(data))
Point.__getstate__ = lambda self: {"x": 4}
made.update(b"".join(pickled(points)[0]))
assert deserialize(dumps([Point(1)]))[0].x == deserialize(dumps(Point(1))).x == 4
print(made.hexdigest(), sys.modules["fsexchange.serialize._native"])
"""


def test_both_write_the_same_bytes(tmp_path: Path) -> None:
    script = tmp_path / "objects.py"
    script.write_text(OBJECTS)
    found = []
    for path in (ROOT, f"{WITHOUT_C}:{ROOT}"):
        env = environment(PYTHONPATH=str(path), PYTHONHASHSEED="0")
        words = [sys.executable, str(script)]
        done = subprocess.run(words, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    (made, native), (made_without, nothing) = (each.split(" ", 1) for each in found)
    assert made == made_without
    assert "_native" in native
    assert nothing == "None\n"


# Later nobody counts references of these.
COUNTED = (None, True, NotImplemented) if sys.version_info < (3, 12) else ()


def test_no_reference_is_lost_or_kept(tmp_path: Path) -> None:
    """Counted on what all calls use, and on all that the collector and the allocator know."""
    key = "a key that nobody else has"
    attributes = (("real", 1), ("nothing", NotImplemented))
    small, with_buffers = dumps({"a": 1}), dumps({"b": np.zeros(5000)})
    array: Any = np.zeros(3, np.uint8)
    own, folder = FileKey("0123456789abcdef/7", len(small)), os.fsencode(f"{tmp_path}/")
    (tmp_path / own.filename).parent.mkdir()
    (tmp_path / own.filename).write_bytes(small)
    puts: list[Any] = [[small, array.data], small]
    slow: Any = memoryview(small)[::2]
    instance = instances._Empty()
    dumps(instance)
    known = instances.INSTANCES[instances._Empty]

    class Plain:
        pass

    def calls() -> None:
        for obj in ({key: [key, (key,)]}, [key, object()], "\u00e9" * 300):
            _native.is_simple(obj, 5000)
            _native.simple_pickle(obj, 5000)
        _native.has_attributes(1, attributes)
        for name in (b"", b"a"):
            _native.loaded(small, zlib.crc32, b"", name)
            _native.loaded(with_buffers, zlib.crc32, b"", name)
        _native.loaded(small[:-1], zlib.crc32, b"", b"")
        _native.small_frame(small, zlib.crc32, small)
        _native.small_frames([small, with_buffers], small, zlib.crc32)
        for state in ({}, {"x": 1}, {"x": key}, {"x": Text("a")}):
            instance.__dict__ = state
            _native.pickle_of_plain(instance, known)
        dumps([Plain, test_no_reference_is_lost_or_kept, calls.__code__ and key, Text])
        with pytest.raises(SerializationError, match="it was pickled"):
            dumps([Text("a")])
        dumps([np.zeros((2, 2)).T[:1], np.zeros(5000)[::2], np.ma.zeros(600)])
        for each in (np.zeros(3), np.zeros(5000), np.zeros(3, object), np.zeros(5, "M8[s]")):
            deserialize(dumps([each, each.view(Named), bytes(70_000)]))
            deserialize(dumps({"a": each}))
        with pytest.raises(CorruptObjectError):
            deserialize(dumps({"a": np.zeros(5000)})[:-1])
        framed(small, [memoryview(small), memoryview(array)], zlib.crc32)
        with pytest.raises(TypeError):
            framed(small, [memoryview(array), None], zlib.crc32)  # type: ignore[list-item]
        calls_of_create: list[tuple[Any, int]] = [
            ([small, array], 0),
            ([small] * 9, 9 * len(small)),
        ]
        assert read_own(own, FileKey, folder, 1 << 20, -1) == bytearray(small)
        for other in (own._replace(offset=1), own._replace(nbytes=1)):
            assert read_own(other, FileKey, folder, 1 << 20, -1) is None
        with pytest.raises(FileNotFoundError):
            read_own(own, FileKey, b"/", 1 << 20, -1)
        for put in puts:
            made = put_own(put, FileKey, folder, "0123456789abcdef/8")
            assert made is not None
            with pytest.raises(FileExistsError):
                put_own(put, FileKey, folder, made.filename)
            os.unlink(tmp_path / made.filename)
        assert put_own([array.data, slow], FileKey, folder, "9") is None
        for pieces, nbytes in calls_of_create:
            with pytest.raises((BufferError, FileExistsError)):
                create(__file__, pieces, nbytes)

    def counts() -> tuple[int, ...]:
        gc.collect()
        given = key, attributes, small, array, Plain, instances.reduce_plain
        each = (*given, *COUNTED)
        return (*map(sys.getrefcount, each), sys.getallocatedblocks())

    def grown() -> list[int]:
        """What a call loses, it loses in each round."""
        before = counts()
        for _ in range(300):
            calls()
        return [after - was for was, after in zip(before, counts(), strict=True)]

    calls()
    rounds = [grown() for _ in range(5)]
    *references, blocks = (min(each, key=abs) for each in zip(*rounds, strict=True))
    assert max(map(abs, references)) < 50, rounds
    assert blocks < 200, rounds


def test_an_installation_without_a_compiler_does_without(tmp_path: Path) -> None:
    words = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path)]
    words += ["--build-temp", str(tmp_path / "objects")]
    env = environment(CC="/bin/false", PYTHONPATH=str(ROOT))
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    assert "_native" in done.stderr
    assert not list(tmp_path.rglob("*.so"))
    env = environment(CC="cc -Wall -Wextra -Werror", PYTHONPATH=str(ROOT))
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.rglob("*.so")] == ["_native.abi3.so"] * 4
