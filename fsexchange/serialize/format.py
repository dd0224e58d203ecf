"""Any Python object as a list of buffers, and back, without copying what is large in it.

`serialize` gives frames that `FileConnector.put` writes as they are; `deserialize` is its inverse
over the buffer that `get` returns: arrays are views of it.

Format, version 1; all numbers little-endian, lengths in bytes:

    offset  size
    0       4       magic: 93 'FSX'
    4       1       version: 1
    5       1       kind: 0 pickle, 1 bytes, 2 bytearray, 3 str, 4 ndarray, 5 memoryview
    6       2       flags: bit 0: the CRC covers the buffers, too
    8       8       length of everything
    16      8       length of the body
    24      4       number of buffers, n
    28      4       CRC-32 (zlib) of bytes 0 to 27, of 32 to the end of the body, and by flag of
                    each buffer in turn
    32      8 * n   lengths of the buffers
    ...             body
    ...             each buffer, at the next multiple of 64 from the start

The body of a pickle is a pickle of protocol 5 whose out-of-band buffers are the buffers. That of
an ndarray or memoryview is 'C' or 'F' for its order, a byte for the number of dimensions, 8 bytes
for each, then numpy's `dtype.str`; its one buffer has the elements. The others have no body, and
their one buffer has the bytes, of a str in UTF-8 (lone surrogates passed).

A plain `.npy` file is taken by `deserialize` as well (numpy.lib.format).
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import struct
import sys
import zlib
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import cloudpickle
import numpy as np

from fsexchange.errors import CorruptObjectError, SerializationError

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer

#: What one object is written as, one buffer after the other.
Frames: TypeAlias = "list[bytes | memoryview]"

_MAGIC = b"\x93FSX"
_VERSION = 1
_HEAD = struct.Struct("<4sBBHQQII")
_CRC_AT = _HEAD.size - 4
_CHECKSUM = 1
#: Buffers begin at a multiple of so many bytes.
ALIGNMENT = 64

_C = ord("C")  # the order of an array, as opposed to Fortran's

_PICKLE, _BYTES, _BYTEARRAY, _STR, _NDARRAY, _MEMORYVIEW = range(6)

# A buffer smaller than this costs more out of the pickle than in it: its place in the table, its
# padding, a piece of a writev.
_OUT_OF_BAND_FROM = 512

#: What plain arrays begin with.
PLAIN_ARRAY = struct.pack("<4sBB", _MAGIC, _VERSION, _NDARRAY)

_NPY_MAGIC = b"\x93NUMPY"


def serialize(obj: Any, *, checksum: bool = False) -> Frames:
    """Return `obj` as frames: buffers to be written one after the other.

    Contiguous arrays, of either order, are not copied: their frames show the caller's own memory,
    so write them before changing it. Strided arrays are copied once. Lambdas, closures, and
    functions and classes of `__main__` travel by value (cloudpickle), others by name.

    Parameters
    ----------
    checksum:
        Guard the buffers by the CRC, too, not only header and body: about a second for 1 GiB.

    Raises
    ------
    SerializationError
        The object has a part that cannot be pickled: a lock, a socket, an open file.

    >>> array = np.arange(6.0).reshape(2, 3)
    >>> deserialize(b"".join(serialize({"a": array, "same": array})))["a"].shape
    (2, 3)
    """
    kind = type(obj)
    if kind is np.ndarray:
        dtype = obj.dtype
        # Dtypes are equal whatever their metadata is, but only those without are built in.
        common = dtype.isbuiltin == 1 and obj.flags.c_contiguous and not checksum
        if common:
            head = HEADS.get((dtype, obj.shape))
            if head is not None:
                return [head, obj.data.cast("B")]
        if _is_plain(dtype):
            body, data = _array_frames(obj)
            frames = _frames(_NDARRAY, body, [data], checksum)
            if common and dtype.char in _NATIVE and data.nbytes:
                _remember(HEADS, (dtype, obj.shape), frames[0])
            return frames
    elif kind is bytes:
        return _frames(_BYTES, b"", [memoryview(obj)], checksum)
    elif kind is str:
        return _frames(_STR, b"", [memoryview(obj.encode("utf-8", "surrogatepass"))], checksum)
    elif kind is bytearray:
        return _frames(_BYTEARRAY, b"", [memoryview(obj)], checksum)
    elif kind is memoryview:
        array = _as_array(obj)
        if _is_plain(array.dtype):
            body, data = _array_frames(array)
            return _frames(_MEMORYVIEW, body, [data], checksum)
    return _frames(_PICKLE, *_pickle(obj), checksum)


def dumps(obj: Any, *, checksum: bool = False) -> bytes:
    """Return the frames of `obj` joined: one copy more, for whoever wants a single bytes.

    >>> deserialize(dumps([1, 2]))
    [1, 2]
    """
    return b"".join(serialize(obj, checksum=checksum))


def deserialize(buffer: Buffer) -> Any:
    """Return the object that `buffer` holds, or the array of a `.npy` file.

    Arrays are views of `buffer`, writable if it is, and keep it alive. Only for buffers whose
    writer you trust: unpickling runs code.

    Raises
    ------
    CorruptObjectError
        Truncated, changed, or not written by `serialize`.
    SerializationError
        Whole, but of a newer version of the format, or of a class that is not importable here.

    >>> deserialize(bytearray(b"".join(serialize(np.arange(3)))))
    array([0, 1, 2])
    """
    view = memoryview(buffer)
    if view.format != "B" or view.ndim != 1:
        view = view.cast("B")
    known = LAYOUTS.get(bytes(view[:ALIGNMENT]))
    if known is not None and known[0] == view.nbytes:
        return np.ndarray(known[1], known[2], view, ALIGNMENT)
    if view[:4] != _MAGIC:
        if view[:6] == _NPY_MAGIC:
            return _load_npy(view)
        raise CorruptObjectError(
            f"not an fsexchange object: begins with {bytes(view[:8])!r}; was it put as bytes, or "
            "by another program?"
        )
    kind, body, buffers = _parse(view)
    if kind == _PICKLE:
        return _unpickle(body, buffers)
    if kind == _NDARRAY:
        array = _load_array(body, buffers[0])
        if body[0] == _C and view.nbytes - array.nbytes == ALIGNMENT and not view[6] & _CHECKSUM:
            head = bytes(view[:ALIGNMENT])
            _remember(LAYOUTS, head, (view.nbytes, array.shape, array.dtype))
        return array
    if kind == _BYTES:
        return bytes(buffers[0])
    if kind == _STR:
        return str(buffers[0], "utf-8", "surrogatepass")
    if kind == _BYTEARRAY:
        return bytearray(buffers[0])
    return _load_array(body, buffers[0]).data


# ---- the format ---------------------------------------------------------------------------------


def _frames(kind: int, body: bytes, buffers: list[memoryview], checksum: bool) -> Frames:
    """Return head, table and body as one frame, then the buffers, each at a multiple of 64."""
    table = struct.pack(f"<{len(buffers)}Q", *[data.nbytes for data in buffers])
    end = _HEAD.size + len(table) + len(body)
    rest: Frames = []
    for data in buffers:
        padding = bytes(-end % ALIGNMENT)
        end += len(padding) + data.nbytes
        rest += (padding, data)
    flags = _CHECKSUM if checksum else 0
    head = _HEAD.pack(_MAGIC, _VERSION, kind, flags, end, len(body), len(buffers), 0)[:_CRC_AT]
    crc = zlib.crc32(body, zlib.crc32(table, zlib.crc32(head)))
    if checksum:
        for data in buffers:
            crc = zlib.crc32(data, crc)
    first = b"".join((head, crc.to_bytes(4, "little"), table, body, *rest[:1]))
    return [first, *rest[1:]]


def _parse(view: memoryview) -> tuple[int, memoryview, list[memoryview]]:
    """Return kind, body and buffers, once they are proven whole."""
    size = view.nbytes
    if size < _HEAD.size:
        raise _truncated(_HEAD.size, size)
    _, version, kind, flags, total, body_size, count, wanted = _HEAD.unpack_from(view)
    if version > _VERSION:
        raise SerializationError(
            f"the object is in format version {version}, and this fsexchange reads up to version "
            f"{_VERSION}: upgrade fsexchange here"
        )
    if total != size:
        raise _truncated(total, size)
    body_start = _HEAD.size + 8 * count
    end = body_start + body_size
    if end > size:
        raise _changed()
    crc = zlib.crc32(view[_HEAD.size : end], zlib.crc32(view[:_CRC_AT]))
    if crc != wanted and not flags & _CHECKSUM:
        raise _changed()
    body = view[body_start:end]
    buffers = []
    for at in range(_HEAD.size, body_start, 8):
        start = end + -end % ALIGNMENT
        end = start + int.from_bytes(view[at : at + 8], "little")
        buffers.append(view[start:end])
        if flags & _CHECKSUM:
            crc = zlib.crc32(buffers[-1], crc)
    if crc != wanted or kind > _MEMORYVIEW:
        raise _changed()
    return kind, body, buffers


def _truncated(expected: int, actual: int) -> CorruptObjectError:
    return CorruptObjectError(
        f"the object has {actual} bytes instead of {expected}: it was truncated or overwritten",
        expected=expected,
        actual=actual,
    )


def _changed() -> CorruptObjectError:
    return CorruptObjectError(
        "the object was changed since it was written: its CRC-32 is not the one in its header"
    )


# ---- arrays of the shapes and types that came last -----------------------------------------------

# Their heads are the same to the last byte, CRC included, as this covers no elements. A head is
# what comes before the elements; a layout is length of all, shape and dtype.
HEADS: dict[tuple[np.dtype[Any], tuple[int, ...]], bytes] = {}
LAYOUTS: dict[bytes, tuple[int, tuple[int, ...], np.dtype[Any]]] = {}

# Types whose arrays are memoryviews that `cast` takes.
_NATIVE = "?bBhHiIlLqQefd"


def _remember(last: dict[Any, Any], key: Any, value: Any) -> None:
    if len(last) >= 256:
        last.clear()
    last[key] = value


# ---- arrays -------------------------------------------------------------------------------------


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Tell whether `dtype.str` says all there is to say of a dtype: no fields, no objects."""
    if dtype.isbuiltin == 1:
        return not dtype.hasobject
    if dtype.kind not in "biufcmMSUV" or dtype.metadata is not None:
        return False
    try:
        return np.dtype(dtype.str) == dtype
    except TypeError:  # another library's, such as the 8-bit floats of ml_dtypes
        return False


def _array_frames(array: npt.NDArray[Any]) -> tuple[bytes, memoryview]:
    order, data = _array_bytes(array)
    body = struct.pack(f"<cB{array.ndim}Q", order.encode(), array.ndim, *array.shape)
    return body + array.dtype.str.encode("ascii"), data


def _array_bytes(array: npt.NDArray[Any]) -> tuple[str, memoryview]:
    """Return 'C' or 'F' and the elements in that order, as bytes; copied only if strided."""
    order = "C"
    if not array.flags.c_contiguous:
        if array.flags.f_contiguous:
            order, array = "F", array.T
        else:
            array = np.ascontiguousarray(array)
    if array.nbytes == 0:
        return order, memoryview(bytearray())
    # By way of uint8, as memoryviews of datetimes and of many structured dtypes do not exist.
    flat = array.reshape(-1).view(np.uint8)
    if not flat.flags.writeable:
        # Pickle would load a read-only array again, though what is loaded is the reader's own.
        flat = np.asarray(_Writable(flat))
    return order, flat.data


class _Writable:
    """Shows read-only memory as writable, to a pickler that only reads it."""

    def __init__(self, flat: npt.NDArray[np.uint8]) -> None:
        self._flat = flat  # keeps the memory
        address = flat.__array_interface__["data"][0]
        self.__array_interface__ = {**flat.__array_interface__, "data": (address, False)}


def _as_array(view: memoryview) -> npt.NDArray[Any]:
    try:
        array = np.asarray(view)
    except (ValueError, RuntimeError) as error:  # formats that numpy cannot read, its own among
        raise SerializationError(f"cannot serialize {view!r}: {error}") from error
    if array.dtype.hasobject:
        raise SerializationError(f"cannot serialize {view!r}: it shows objects in memory")
    return array


def _load_array(body: memoryview, data: memoryview) -> npt.NDArray[Any]:
    ndim = body[1]
    shape = struct.unpack_from(f"<{ndim}Q", body, 2)
    dtype = np.dtype(str(body[2 + 8 * ndim :], "ascii"))
    return _ndarray(data, dtype, shape, chr(body[0]))


def _ndarray(
    data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> npt.NDArray[Any]:
    return np.ndarray(shape, dtype, buffer=data, order=order)


def _subclass(array: npt.NDArray[Any], kind: type[npt.NDArray[Any]]) -> Any:
    return array.view(kind)


def _masked(
    data: npt.NDArray[Any], mask: npt.NDArray[Any] | None, fill_value: Any, hard: bool
) -> Any:
    ma: Any = np.ma  # not typed before numpy 2.3
    array = ma.MaskedArray(
        data, mask=ma.nomask if mask is None else mask, hard_mask=hard, copy=False
    )
    array._fill_value = fill_value
    return array


def _memoryview(array: npt.NDArray[Any]) -> memoryview:
    return array.data


def _load_npy(view: memoryview) -> npt.NDArray[Any]:
    # The longest header that numpy accepts without being told to trust it is 10,000 bytes.
    head = io.BytesIO(view[: 1 << 16])
    npy: Any = np.lib.format  # not typed before numpy 2.3
    try:
        version = npy.read_magic(head)
        if version > (2, 0):
            raise SerializationError(f".npy of version {version}: load it by numpy.load")
        old = version == (1, 0)
        shape, fortran, dtype = (
            npy.read_array_header_1_0(head) if old else npy.read_array_header_2_0(head)
        )
        data = view[head.tell() :]
        if dtype.hasobject:
            raise SerializationError("the .npy file holds Python objects: load it by numpy.load")
        array: npt.NDArray[Any] = np.ndarray(
            shape, dtype, buffer=data, order="F" if fortran else "C"
        )
    except (ValueError, TypeError) as error:
        if isinstance(error, SerializationError):
            raise
        raise CorruptObjectError(f"a damaged .npy file: {error}") from error
    if array.nbytes != data.nbytes:
        raise _truncated(head.tell() + array.nbytes, view.nbytes)
    return array


# ---- everything else ----------------------------------------------------------------------------


_PICKLING = ("__reduce__", "__reduce_ex__", "__setstate__")


class _ByValueError(Exception):
    """Plain pickle would name a function or class that no other process can import."""


def _reduce_array(obj: Any) -> Any:
    """Reduce an array to one out-of-band buffer whatever its strides, dtype and subclass.

    numpy does so for contiguous arrays of plain type alone, and by names of functions that moved
    between numpy 1 and 2.
    """
    kind = type(obj)
    if obj.dtype.hasobject or obj.dtype.kind not in "biufcmMSUV":
        return NotImplemented
    if kind.__name__ == "MaskedArray" and kind is np.ma.MaskedArray:  # numpy.ma takes 10 ms
        ma: Any = np.ma  # not typed before numpy 2.3
        data, mask = obj.view(np.ndarray), ma.getmask(obj)
        mask = None if mask is ma.nomask else mask
        return _masked, (data, mask, obj._fill_value, obj.hardmask)
    if kind is not np.ndarray:
        if any(getattr(kind, name) is not getattr(np.ndarray, name) for name in _PICKLING):
            return NotImplemented  # has more to say than its elements
        if kind in copyreg.dispatch_table:
            return NotImplemented
        return _subclass, (obj.view(np.ndarray), kind)
    order, data = _array_bytes(obj)
    return _ndarray, (pickle.PickleBuffer(data), obj.dtype, obj.shape, order)


_MAINS = ("__main__", "__mp_main__")  # a script, and the same in a spawned child of its own


def _reduce_buffer(obj: Any) -> Any:
    if isinstance(obj, np.ndarray):
        return _reduce_array(obj)
    return _memoryview, (_as_array(obj),)


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (np.ndarray, memoryview)):
            return _reduce_buffer(obj)
        if isinstance(obj, (type, FunctionType, TypeVar)) and obj.__module__ in _MAINS:
            raise _ByValueError
        return NotImplemented


class _CloudPickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (np.ndarray, memoryview)):
            return _reduce_buffer(obj)
        if isinstance(obj, (type, FunctionType)) and obj.__module__ in _MAINS:
            file, name = _main_file(obj.__module__), obj.__qualname__
            if obj.__module__ == "__mp_main__":
                cloudpickle.register_pickle_by_value(sys.modules["__mp_main__"])
            if file and _named(obj.__module__, name) is obj:
                return _from_main, (file, name, cloudpickle.dumps(obj))
        return super().reducer_override(obj)


def _from_main(file: str, name: str, by_value: bytes) -> Any:
    """Return a function or class of a script: this process's own if it runs the same script.

    So that `isinstance` and `except` hold among the processes of one script; others, which
    cannot import it, get a copy.
    """
    for module in _MAINS:
        if _main_file(module) == file:
            found = _named(module, name)
            if found is not None:
                return found
    return pickle.loads(by_value)


def _main_file(module: str) -> str | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else os.path.abspath(file)


def _named(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _pickle(obj: Any) -> tuple[bytes, list[memoryview]]:
    """Return the pickle of `obj` and its out-of-band buffers; plain pickle first, it is faster."""
    try:
        return _pickle_with(_Pickler, obj)
    except MemoryError:
        raise
    except Exception:
        pass  # a class's own __reduce__ may raise anything; cloudpickle will say it again
    try:
        return _pickle_with(_CloudPickler, obj)
    except MemoryError:
        raise
    except Exception as error:
        raise SerializationError(
            f"cannot serialize a {type(obj).__module__}.{type(obj).__qualname__}: {error}"
        ) from error


def _pickle_with(pickler: Callable[..., Any], obj: Any) -> tuple[bytes, list[memoryview]]:
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        data = buffer.raw()
        if data.nbytes < _OUT_OF_BAND_FROM:
            return True  # in the pickle
        buffers.append(data)
        return False

    file = io.BytesIO()
    pickler(file, protocol=5, buffer_callback=keep).dump(obj)
    return file.getvalue(), buffers


def _unpickle(body: memoryview, buffers: list[memoryview]) -> Any:
    try:
        return pickle.loads(body, buffers=buffers)
    except (ImportError, AttributeError) as error:
        raise SerializationError(
            f"the object needs what this process cannot import: {error}; its path is {sys.path}"
        ) from error
