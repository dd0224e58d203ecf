"""Arrays without a pickle, as a short body and their elements; known heads; `.npy` files."""

from __future__ import annotations

import io
import math
import struct
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fsexchange.errors import CorruptObjectError, SerializationError
from fsexchange.serialize.format import (
    ALIGNMENT,
    CHECKSUM,
    MAGIC,
    NDARRAY,
    frames,
    truncated,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from fsexchange.serialize.format import Frames

# The first byte of a body: the elements are in C order.
_C = ord("C")

#: Characters of the dtypes whose arrays have memoryviews that `cast` takes.
NATIVE = "?bBhHiIlLqQefd"

# Smaller arrays are written in full.
_BROADCAST_FROM = 4096

#: The first bytes of every object that is a plain array.
PLAIN_ARRAY = struct.pack("<4sBB", MAGIC, 1, NDARRAY)

#: The first bytes of every `.npy` file.
NPY_MAGIC = b"\x93NUMPY"

#: So many bytes of a `.npy` file hold all that is before its elements.
NPY_HEAD = 1 << 16

# Arrays of one shape and type have the same head: all bytes before the elements. The CRC in it does
# not cover the elements. So the heads of the latest shapes and types are kept, for both directions.

#: Dtype and shape -> head.
HEAD_OF: dict[tuple[np.dtype[Any], tuple[int, ...]], bytes] = {}

#: Head -> length of the whole object, shape and dtype.
ARRAY_OF: dict[bytes, tuple[int, tuple[int, ...], np.dtype[Any]]] = {}


def _remember(latest: dict[Any, Any], key: Any, value: Any) -> None:
    if len(latest) >= 256:
        latest.clear()
    latest[key] = value


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Return whether `dtype.str` describes a dtype completely: no fields, no objects."""
    if dtype.isbuiltin == 1:
        return not dtype.hasobject
    if dtype.kind not in "biufcmMSUV" or dtype.metadata is not None:
        return False
    try:
        return np.dtype(dtype.str) == dtype
    except TypeError:  # another library's dtype, such as the 8-bit floats of ml_dtypes
        return False


def is_broadcast(array: npt.NDArray[Any]) -> bool:
    """Return whether a large array shows some elements many times, as `np.broadcast_to` makes it.

    Such arrays are read-only. One that is writable is one's own in full.
    """
    if array.nbytes < _BROADCAST_FROM or array.flags.writeable or array.flags.forc:
        return False
    return any(not step and n > 1 for step, n in zip(array.strides, array.shape, strict=True))


def array_frames(array: npt.NDArray[Any], checksum: bool) -> Frames:
    """Return the frames of an array of plain dtype, and remember its head for arrays like it."""
    body, data = array_body(array)
    made = frames(NDARRAY, body, [data], checksum)
    # Equal dtypes may differ in metadata, but only those without metadata are built in.
    dtype = array.dtype
    recurs = dtype.isbuiltin == 1 and array.flags.c_contiguous and not checksum
    if recurs and dtype.char in NATIVE and data.nbytes:
        _remember(HEAD_OF, (dtype, array.shape), made[0])
    return made


def array_body(array: npt.NDArray[Any]) -> tuple[bytes, memoryview]:
    """Return the body that describes an array, and its elements as bytes."""
    order, data = array_bytes(array)
    body = struct.pack(f"<cB{array.ndim}Q", order.encode(), array.ndim, *array.shape)
    return body + array.dtype.str.encode("ascii"), data


def array_bytes(array: npt.NDArray[Any]) -> tuple[str, memoryview]:
    """Return 'C' or 'F' and the elements in that order, as bytes; copied only if strided."""
    order = "C"
    if not array.flags.c_contiguous:
        if array.flags.f_contiguous:
            order, array = "F", array.T
        else:
            array = np.ascontiguousarray(array)
    if array.nbytes == 0:
        return order, memoryview(bytearray())
    # As uint8: datetimes and many structured dtypes have no memoryviews.
    flat = array.reshape(-1).view(np.uint8)
    if not flat.flags.writeable:
        # Pickle would make the loaded array read-only, too, although it belongs to the reader.
        flat = np.asarray(_Writable(flat))
    return order, flat.data


class _Writable:
    """Shows read-only memory as writable, to a pickler that only reads it."""

    def __init__(self, flat: npt.NDArray[np.uint8]) -> None:
        self._flat = flat  # keeps the memory alive
        address = flat.__array_interface__["data"][0]
        self.__array_interface__ = {**flat.__array_interface__, "data": (address, False)}


def as_array(view: memoryview) -> npt.NDArray[Any]:
    """Return a memoryview as an array; `SerializationError` if no other process can read it."""
    try:
        array = np.asarray(view)
    except (ValueError, RuntimeError) as error:  # numpy cannot read all that it exports
        raise SerializationError(f"cannot serialize {view!r}: {error}") from error
    if array.dtype.hasobject:
        raise SerializationError(f"cannot serialize {view!r}: it shows Python objects")
    return array


def load_plain(view: memoryview, body: memoryview, data: memoryview) -> npt.NDArray[Any]:
    """Return the array of a plain-array object, and remember its head for arrays like it."""
    array = load_array(body, data)
    if body[0] == _C and view.nbytes - array.nbytes == ALIGNMENT and not view[6] & CHECKSUM:
        head = bytes(view[:ALIGNMENT])
        _remember(ARRAY_OF, head, (view.nbytes, array.shape, array.dtype))
    return array


def load_array(body: memoryview, data: memoryview) -> npt.NDArray[Any]:
    """Return the array that `array_body` described, a view of its elements."""
    ndim = body[1]
    shape = struct.unpack_from(f"<{ndim}Q", body, 2)
    dtype = np.dtype(str(body[2 + 8 * ndim :], "ascii"))
    order: Any = chr(body[0])
    return np.ndarray(shape, dtype, buffer=data, order=order)


def load_npy(view: memoryview) -> npt.NDArray[Any]:
    """Return the array of a `.npy` file, a view of it."""
    shape, order, dtype, start = npy_layout(view)
    data = view[start:]
    try:
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, buffer=data, order=order)
    except Exception as error:  # of a shape that no array has, whatever numpy raises
        raise CorruptObjectError(f"a damaged .npy file: {error}") from error
    if array.nbytes != data.nbytes:
        raise truncated(start + array.nbytes, view.nbytes)
    return array


def check_npy(start: bytes, nbytes: int) -> None:
    """Raise unless a `.npy` file of `nbytes` bytes, `NPY_HEAD` of which `start`, can be loaded."""
    shape, _, dtype, elements = npy_layout(memoryview(start))
    expected = elements + dtype.itemsize * math.prod(shape)
    if expected != nbytes:
        raise truncated(expected, nbytes)


def npy_head(dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> bytes:
    """Return what a `.npy` file has before the elements of an array."""
    head = io.BytesIO()
    npy: Any = np.lib.format  # not typed before numpy 2.3
    descr = npy.dtype_to_descr(dtype)
    fields = {"descr": descr, "fortran_order": order == "F", "shape": shape}
    try:
        npy.write_array_header_1_0(head, fields)
    except ValueError:  # too many fields
        npy.write_array_header_2_0(head, fields)
    return head.getvalue()


def npy_layout(view: memoryview) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any], int]:
    """Return shape, order and dtype of a `.npy` file, and where its elements start."""
    # Unless told to trust a file, numpy accepts headers of at most 10,000 bytes.
    head = io.BytesIO(view[:NPY_HEAD])
    npy: Any = np.lib.format  # not typed before numpy 2.3
    try:
        version = npy.read_magic(head)
        if version > (2, 0):
            raise SerializationError(f".npy of version {version}: load it by numpy.load")
        old = version == (1, 0)
        shape, fortran, dtype = (
            npy.read_array_header_1_0(head) if old else npy.read_array_header_2_0(head)
        )
    except SerializationError:
        raise
    except Exception as error:  # whatever Python's tokenizer and parser raise: MemoryError, too
        raise CorruptObjectError(f"a damaged .npy file: {error}") from error
    if dtype.hasobject:
        raise SerializationError("the .npy file holds Python objects: load it by numpy.load")
    return shape, "F" if fortran else "C", dtype, head.tell()
