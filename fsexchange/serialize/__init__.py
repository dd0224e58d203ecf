"""Any object as frames and back, without copying large arrays. Knows no files.

`serialize` returns frames, which `FileConnector.put` writes as they are. `deserialize` is its
inverse: it takes the buffer that `get` returns, and arrays are views of that buffer.

`format` lays out the bytes. `arrays` handles what needs no pickle, `pickling` everything else,
`by_value` the functions and classes that other processes cannot import.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fsexchange.errors import CorruptObjectError, SerializationError
from fsexchange.serialize.arrays import (
    ARRAY_OF,
    HEAD_OF,
    NPY_MAGIC,
    array_body,
    array_frames,
    as_array,
    is_plain,
    load_array,
    load_npy,
    load_plain,
)
from fsexchange.serialize.format import (
    ALIGNMENT,
    BYTEARRAY,
    BYTES,
    MAGIC,
    MEMORYVIEW,
    NDARRAY,
    PICKLE,
    STR,
    Frames,
    frames,
    parse,
)
from fsexchange.serialize.pickling import (
    Pickler,
    _from_main,
    _masked,
    _memoryview,
    _ndarray,
    _subclass,
    dump,
    load,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from fsexchange.serialize.by_value import CloudPickler

__all__ = ["Frames", "deserialize", "dumps", "serialize"]

# Stored pickles contain the names of the functions that load them. These are names in this package,
# so that objects stay readable when a function moves to another module.
for _loader in (_from_main, _masked, _memoryview, _ndarray, _subclass):
    _loader.__module__ = __name__

# Bound once: to make a bound method for each call takes 5 % of the time for an array of 1 KiB.
_head_of = HEAD_OF.get
_array_of = ARRAY_OF.get


def serialize(obj: Any, *, checksum: bool = False) -> Frames:
    """Return `obj` as frames, which are buffers to be written one after the other.

    Contiguous arrays, in C or Fortran order, are not copied: their frames show the caller's own
    memory, so write them before changing it. Strided arrays are copied once. Lambdas, closures, and
    functions and classes of `__main__` travel by value (cloudpickle), others by name.

    Parameters
    ----------
    checksum:
        Make the CRC guard the buffers as well as header and body: about a second for 1 GiB.

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
        # Equal dtypes may differ in metadata, but only those without metadata are built in.
        if dtype.isbuiltin == 1 and obj.flags.c_contiguous and not checksum:
            head = _head_of((dtype, obj.shape))
            if head is not None:
                return [head, obj.data.cast("B")]
        if is_plain(dtype):
            return array_frames(obj, checksum)
    elif kind is bytes:
        return frames(BYTES, b"", [memoryview(obj)], checksum)
    elif kind is str:
        return frames(STR, b"", [memoryview(obj.encode("utf-8", "surrogatepass"))], checksum)
    elif kind is bytearray:
        return frames(BYTEARRAY, b"", [memoryview(obj)], checksum)
    elif kind is memoryview:
        array = as_array(obj)
        if is_plain(array.dtype):
            body, data = array_body(array)
            return frames(MEMORYVIEW, body, [data], checksum)
    return frames(PICKLE, *_pickle(obj), checksum)


def dumps(obj: Any, *, checksum: bool = False) -> bytes:
    """Return the frames of `obj` joined into one bytes object, at the cost of one more copy.

    >>> deserialize(dumps([1, 2]))
    [1, 2]
    """
    return b"".join(serialize(obj, checksum=checksum))


def deserialize(buffer: Buffer) -> Any:
    """Return the object that `buffer` holds, or the array of a `.npy` file.

    Arrays are views of `buffer`, writable if it is, and keep it alive. Use it only for buffers
    whose writer you trust: unpickling runs code.

    Raises
    ------
    CorruptObjectError
        The object was truncated, changed, or not written by `serialize`.
    SerializationError
        The object is whole, but of a newer version of the format, or of a class that is not
        importable here.

    >>> deserialize(bytearray(b"".join(serialize(np.arange(3)))))
    array([0, 1, 2])
    """
    view = memoryview(buffer)
    if view.format != "B" or view.ndim != 1:
        view = view.cast("B")
    known = _array_of(bytes(view[:ALIGNMENT]))
    if known is not None and known[0] == view.nbytes:
        return np.ndarray(known[1], known[2], view, ALIGNMENT)
    if view[:4] != MAGIC:
        if view[:6] == NPY_MAGIC:
            return load_npy(view)
        raise CorruptObjectError(
            f"not an fsexchange object: begins with {bytes(view[:8])!r}; was it put as bytes, or "
            "by another program?"
        )
    kind, body, buffers = parse(view)
    if kind == PICKLE:
        return load(body, buffers)
    if kind == NDARRAY:
        return load_plain(view, body, buffers[0])
    if kind == BYTES:
        return bytes(buffers[0])
    if kind == STR:
        return str(buffers[0], "utf-8", "surrogatepass")
    if kind == BYTEARRAY:
        return bytearray(buffers[0])
    return load_array(body, buffers[0]).data


def _pickle(obj: Any) -> tuple[bytes, list[memoryview]]:
    """Return the pickle of `obj` and its out-of-band buffers; plain pickle is faster, so first."""
    try:
        return dump(Pickler, obj)
    except MemoryError:
        raise
    except Exception:
        pass  # a class's own __reduce__ may raise anything; cloudpickle will raise it again
    try:
        return dump(_cloud_pickler(), obj)
    except MemoryError:
        raise
    except Exception as error:
        raise SerializationError(
            f"cannot serialize a {type(obj).__module__}.{type(obj).__qualname__}: {error}"
        ) from error


# A child forked while another thread imports a module would wait for that import for ever, so the
# fork waits for the thread.
_importing = threading.RLock()
os.register_at_fork(
    before=_importing.acquire,
    after_in_parent=_importing.release,
    after_in_child=_importing.release,
)


@cache
def _cloud_pickler() -> type[CloudPickler]:
    with _importing:
        from fsexchange.serialize.by_value import CloudPickler  # 6 ms, and rarely needed
    return CloudPickler
