"""Any object as frames and back, without copying large arrays. Knows no files.

`serialize` returns frames, which `FileConnector.put` writes as they are. `deserialize` is its
inverse: it takes the buffer that `get` returns, and arrays are views of that buffer.

Objects of other libraries whose data need not be copied have a row in the table of `kinds`. Your
own need a reducer in `copyreg`: what it returns in a `PickleBuffer` is written as it is, and is a
memoryview of the buffer when it is loaded.

>>> import copyreg
>>> from pickle import PickleBuffer
>>> class Image:
...     def __init__(self, width, pixels):
...         self.width, self.pixels = width, pixels
>>> copyreg.pickle(Image, lambda image: (Image, (image.width, PickleBuffer(image.pixels))))
>>> [_, pixels] = serialize(Image(640, bytearray(640 * 480)))  # uncopied, as the last frame
>>> len(pixels)
307200

`format` lays out the bytes. `arrays` handles what needs no pickle, `pickling` everything else, by
the table in `kinds`; `instances` most dataclasses; `script` what the program itself defines, which
other programs cannot import, and `by_value` its definitions. `npy` has the format of `.npy` files,
and `runs` says where in such a file a part of the array lies.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from fsexchange.errors import CorruptObjectError
from fsexchange.serialize import script
from fsexchange.serialize.arrays import (
    ARRAY_OF,
    HEAD_OF,
    array_body,
    array_frames,
    as_array,
    is_broadcast,
    is_plain,
    load_array,
    load_plain,
)
from fsexchange.serialize.crc import crc32
from fsexchange.serialize.format import (
    ALIGNMENT,
    ARRAY_START,
    BYTEARRAY,
    BYTES,
    MAGIC,
    MEMORYVIEW,
    NDARRAY,
    PICKLE,
    PICKLE_START,
    PLAIN,
    SMALL_HEAD,
    SMALL_START,
    STR,
    Frames,
    frames,
    loaded,
    parse,
    parsed,
    plain_data,
    plain_frames,
    proven_small,
    small_frame,
)
from fsexchange.serialize.libraries import (
    _array_array,
    _astropy_table,
    _bytes_io,
    _jax,
    _polars,
    _torch_storage,
)
from fsexchange.serialize.npy import NPY_MAGIC, load_npy
from fsexchange.serialize.pickling import (
    EXTENSIONS,
    PICKLED_UP_TO,
    SIMPLE_UP_TO,
    copied,
    framed_or_made,
    frames_of,
    load,
    small_or_made,
    unpinned,
)
from fsexchange.serialize.reasons import PASSED_ON, is_of_handler, loading_error
from fsexchange.serialize.script import _from_main
from fsexchange.serialize.simple import simple_pickle
from fsexchange.serialize.subclasses import (
    _broadcast,
    _masked,
    _memoryview,
    _ndarray,
    _subclass,
    _with_state,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Frames", "deserialize", "dumps", "serialize"]

# Stored pickles contain the names of the functions that load them. These are names in this package,
# so that objects stay readable when a function moves to another module.
for _loader in (
    _array_array,
    _astropy_table,
    _broadcast,
    _bytes_io,
    _from_main,
    _jax,
    _masked,
    _memoryview,
    _ndarray,
    _polars,
    _subclass,
    _torch_storage,
    _with_state,
):
    _loader.__module__ = __name__

# Bound once: to make a bound method for each call takes 5 % of the time for an array of 1 KiB.
_head_of = HEAD_OF.get
_array_of = ARRAY_OF.get

_ARRAY = np.ndarray

# Types whose long objects are not pickled -> the kind of these.
_LONG: dict[type, int] = {bytes: BYTES, bytearray: BYTEARRAY, str: STR}

# An object of so many bytes is worth some copies, so that its small parts do not keep all of it.
_PINNED_FROM = 1 << 20


def serialize(obj: Any, *, checksum: bool = False) -> Frames:
    """Return `obj` as frames, which are buffers to be written one after the other.

    Contiguous arrays, in C or Fortran order, are not copied, inside other objects from 4 KiB on:
    their frames show the caller's own memory, so write them before changing it. Strided arrays are
    copied once. Functions and classes travel by name, as with pickle; lambdas and closures by
    value (cloudpickle). For readers that run another script, definitions of what the object names
    of `__main__` go along, without the data that these mention. Every object is asked for its
    state once.

    Parameters
    ----------
    checksum:
        Make the CRC guard arrays and long bytes and text, too: 0.15 seconds for 1 GiB; about a
        second where there is no wheel of isal.

    Raises
    ------
    SerializationError
        The object has a part that cannot be pickled: a lock, a socket, an open file. The message
        says where in the object it is.

    >>> array = np.arange(6.0).reshape(2, 3)
    >>> deserialize(b"".join(serialize({"a": array, "same": array})))["a"].shape
    (2, 3)
    """
    kind = type(obj)
    if kind is _ARRAY:
        dtype = obj.dtype
        # Equal dtypes may differ in metadata, but only those without metadata are built in.
        if dtype.isbuiltin == 1 and obj.flags.c_contiguous and not checksum:
            head = _head_of((dtype, obj.shape))
            if head is not None:
                return [head, obj.data.cast("B")]
        if is_plain(dtype) and not is_broadcast(obj):
            return array_frames(obj, checksum)
    framed = framed_or_made(obj)
    if framed is not None:
        return [framed] if isinstance(framed, bytes) else frames_of(framed, checksum)
    if (kind is bytes or kind is str or kind is bytearray) and len(obj) > PICKLED_UP_TO:
        data = obj.encode("utf-8", "surrogatepass") if kind is str else obj
        if checksum:
            return frames(_LONG[kind], b"", [memoryview(data)], checksum)
        return plain_frames(_LONG[kind], data)
    if kind is memoryview:
        array = as_array(obj)
        if is_plain(array.dtype):
            shape, elements = array_body(array)
            return frames(MEMORYVIEW, shape, [elements], checksum)
    made = simple_pickle(obj, SIMPLE_UP_TO) or small_or_made(obj)
    return [small_frame(made, crc32)] if isinstance(made, bytes) else frames_of(made, checksum)


def dumps(obj: Any, *, checksum: bool = False) -> bytes:
    """Return the frames of `obj` joined into one bytes object, at the cost of one more copy.

    >>> deserialize(dumps([1, 2]))
    [1, 2]
    """
    framed = framed_or_made(obj)  # not in a list, which would take a tenth of the time
    if framed is None:
        return b"".join(serialize(obj, checksum=checksum))
    return framed if isinstance(framed, bytes) else b"".join(frames_of(framed, checksum))


def deserialize(buffer: Buffer) -> Any:
    """Return the object that `buffer` holds, or the array of a `.npy` file.

    Arrays are views of `buffer`, writable if it is, and keep all of it alive, so copy one that you
    keep of many; but those under 64 KiB beside much larger ones are copies. Arrays of
    `np.broadcast_to` are again read-only views of fewer elements. Use it only for buffers whose
    writer you trust: unpickling runs code.

    Raises
    ------
    CorruptObjectError
        The object was truncated, changed, or not written by `serialize`.
    SerializationError
        The object is whole, but of a newer version of the format, or of a class that is not
        importable here, or whose own methods fail to load it.

    >>> deserialize(bytearray(b"".join(serialize(np.arange(3)))))
    array([0, 1, 2])
    """
    if sys.modules.get("__main__") is script.known_main and not (script.importable and EXTENSIONS):
        try:  # most, in one call
            obj = loaded(buffer, crc32, script.seen, script.importable)
        except Exception as error:
            if isinstance(error, PASSED_ON) or is_of_handler(error):
                raise
            raise loading_error(error) from error
        if obj is not NotImplemented:
            return obj
    view: Any = buffer
    if type(buffer) is bytes or type(buffer) is bytearray:
        start = bytes(buffer[:8])
    else:
        view = memoryview(buffer)
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")
        start = bytes(view[:8])
    if start == SMALL_START:
        body = proven_small(view)
        return load(body, (), view[SMALL_HEAD + len(body) :])
    if start == PICKLE_START:
        view = memoryview(view)
        found = parsed(view, crc32)
        if found is not None:
            return load(found[0], unpinned(found[1]) if len(view) >= _PINNED_FROM else found[1])
    if start == ARRAY_START:
        known = _array_of(bytes(view[:ALIGNMENT]))
        if known is not None and known[0] == len(view):
            return np.ndarray(known[1], known[2], view, ALIGNMENT)
    kind = PLAIN.get(start)
    data = None if kind is None else plain_data(view)
    if data is None:
        view = memoryview(view)
        if not start.startswith(MAGIC):
            if start.startswith(NPY_MAGIC):
                return load_npy(view)
            raise CorruptObjectError(
                f"not an fsexchange object: begins with {start!r}; was it put as bytes, or by "
                "another program?"
            )
        kind, body, buffers, section, long = parse(view)
        if kind == PICKLE:
            kept = unpinned(buffers) if len(view) >= _PINNED_FROM else buffers
            return load(body, kept, section, long)
        if kind == NDARRAY:
            return load_plain(view, body, buffers[0])
        if kind == MEMORYVIEW:
            return load_array(body, buffers[0]).data
        data = buffers[0]
    if kind == BYTES:
        return view[ALIGNMENT:] if type(view) is bytes else copied(bytes, data)
    if kind == BYTEARRAY:
        return copied(bytearray, data)
    try:
        return str(data, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise CorruptObjectError(f"the text was changed since it was written: {error}") from error
