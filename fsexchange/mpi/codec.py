"""Codec: an object as one pickle and the buffers that are left out of it, and back.

A message is read once, by a rank of the same job, and MPI delivers it whole. So it needs no frames
and no checksum, and any reader loads it by `pickle.loads(body, buffers=buffers)`: that is `decode`.
What is not pickle's own (a plain array, a definition for ranks that run another script) is a call
of a function of this module, whose pickle is put together by hand. This module needs no MPI.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from fsexchange.serialize import script
from fsexchange.serialize.arrays import NATIVE
from fsexchange.serialize.pickling import load, small_or_made, unpinned
from fsexchange.serialize.simple import simple_pickle

#: Writable or readable memory.
Memory: TypeAlias = "bytes | bytearray | memoryview"

#: An object: its pickle, and the buffers that this leaves out, which may be the sender's own.
Encoded: TypeAlias = "tuple[Memory, Sequence[Memory]]"

#: Arrays of up to this many bytes are a part of their pickle: any MPI takes messages of so many
#: bytes at once.
SMALL = 3072

# An object of so many bytes is worth some copies, so that its small parts do not keep all of it.
_PINNED_FROM = 1 << 20

_dumps, _loads = pickle.dumps, pickle.loads
_ARRAY = np.ndarray
_LENGTH = struct.Struct("<Q")

# Opcodes: the start of a call, its end with one or two arguments, and what an argument may be.
_CALL = pickle.PROTO + b"\x05" + pickle.GLOBAL
#: The end of a call with one argument.
END_1 = pickle.TUPLE1 + pickle.REDUCE + pickle.STOP
_END_2 = pickle.TUPLE2 + pickle.REDUCE + pickle.STOP
_END = pickle.TUPLE + pickle.REDUCE + pickle.STOP


def called(function: Any, *args: bytes) -> bytes:
    """Return the pickle of a call; each argument is what `in_pickle` returns, or `OUT_OF_IT`."""
    mark, end = (b"", END_1) if len(args) < 2 else (pickle.MARK, _END)
    name = f"{function.__module__}\n{function.__qualname__}\n".encode()
    return b"".join((_CALL, name, mark, *args, end))


def in_pickle(data: Memory) -> bytes:
    """Return bytes as an argument of `called`; the function gets what is writable as writable."""
    if type(data) is bytes:
        return b"".join((pickle.BINBYTES8, _LENGTH.pack(len(data)), data))
    return b"".join((pickle.BYTEARRAY8, _LENGTH.pack(len(data)), data))


#: An argument of `called`: the next buffer that is left out of the pickle.
OUT_OF_IT = pickle.NEXT_BUFFER

# Types whose objects plain pickle handles, and which name nothing.
_SIMPLE = frozenset({type(None), bool, int, float, str, bytes, bytearray})

# Large text and bytes, by the type: a pickle that makes one of a buffer.
_OF_BUFFER = {
    bytes: _CALL + b"builtins\nbytes\n" + OUT_OF_IT + END_1,
    bytearray: _CALL + b"builtins\nbytearray\n" + OUT_OF_IT + END_1,
}

#: Pickles that keep nothing of their buffer, but copy it.
COPIES = frozenset(_OF_BUFFER.values())

# What the start says of the array -> its dtype and shape.
_shapes: dict[bytes, tuple[np.dtype[Any], tuple[int, ...]]] = {}
#: The same by the whole pickle of an array that is out of it, which then need not be loaded.
OUTSIDE: dict[bytes, tuple[np.dtype[Any], tuple[int, ...]]] = {}
_OUTSIDE_UP_TO = 256


class Codec:
    """Turns objects into messages for the ranks of one communicator.

    Functions and classes of the script go by reference. Only if some ranks run another script,
    definitions go along, as in stores. Arrays and bytes of up to `small` bytes are a part of their
    pickle.
    """

    def __init__(self, *, same_script: bool, small: int = SMALL) -> None:
        self._same_script = same_script
        self._small = small
        # Arrays of one shape and type have the same start. Those of the latest are kept: the dtype
        # and the shape -> the start, and whether the elements follow in the pickle.
        self._starts: dict[tuple[np.dtype[Any], tuple[int, ...]], tuple[bytes, bool]] = {}

    def encode(self, obj: Any) -> Encoded:
        """Return the pickle of an object and its large buffers, which may be its own memory.

        Raises `SerializationError` if it cannot be pickled.
        """
        kind = type(obj)
        if kind is _ARRAY:
            dtype = obj.dtype
            # Equal dtypes may differ in metadata, but only those without metadata are built in.
            if dtype.isbuiltin == 1 and obj.flags.c_contiguous:
                start, inside = self._starts.get((dtype, obj.shape)) or self._start(dtype, obj)
                if inside:
                    return b"".join((start, obj.data, _END_2)), ()
                if start:
                    return start, (obj.data.cast("B"),)
        elif kind in _SIMPLE:
            if (kind is bytes or kind is bytearray) and len(obj) > self._small:
                return _OF_BUFFER[kind], (obj,)
            return _dumps(obj, 5), ()
        simple = simple_pickle(obj, self._small)
        if simple is not None:
            return simple, ()
        made = small_or_made(obj)
        if isinstance(made, bytes):
            return made, ()
        pieces, buffers, named = made
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if named and not self._same_script:
            args = in_pickle(bytes(body)), in_pickle(script.section(named))
            body = called(_of_script, *args, *[OUT_OF_IT] * len(buffers))
        return body, buffers

    def _start(self, dtype: np.dtype[Any], obj: Any) -> tuple[bytes, bool]:
        if dtype.char not in NATIVE or not obj.nbytes:
            return b"", False
        start = _start_of(struct.pack(f"<c{obj.ndim}Q", dtype.char.encode(), *obj.shape))
        inside = obj.nbytes <= self._small
        if inside:
            start += pickle.BYTEARRAY8 + _LENGTH.pack(obj.nbytes)
        else:
            start += OUT_OF_IT + _END_2
        if len(self._starts) >= 256:
            self._starts.clear()
        self._starts[dtype, obj.shape] = start, inside
        return start, inside


def decode(body: Memory, buffers: Sequence[Memory] = ()) -> Any:
    """Return the object, whose arrays are views of the buffers; raise what its own class raises."""
    if len(buffers) == 1 and len(body) <= _OUTSIDE_UP_TO:
        known = OUTSIDE.get(bytes(body))
        if known is not None:
            return _ARRAY(known[1], known[0], buffers[0])
    return _loads(body, buffers=buffers)


def pinned_by_none(buffers: Sequence[memoryview]) -> Sequence[memoryview]:
    """Return buffers that share memory, with copies of those that are small beside the others."""
    if len(buffers) > 1 and sum([len(each) for each in buffers]) >= _PINNED_FROM:
        return unpinned(buffers)
    return buffers


def this_script() -> tuple[object, ...]:
    """Return what tells the main module of this process from others'."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    spec = getattr(main, "__spec__", None)
    if file is None:  # `python -c`, a notebook: the words of the command line are all there is
        return (*sys.orig_argv,)
    return os.path.realpath(file), None if spec is None else spec.name


# ---- arrays -------------------------------------------------------------------------------------


def _start_of(said: bytes) -> bytes:
    """Return the pickle of an array up to its elements."""
    return b"".join((_CALL, f"{__name__}\n{_array.__qualname__}\n".encode(), in_pickle(said)))


def _array(said: bytes, data: Memory) -> Any:
    known = _shapes.get(said)
    if known is None:
        shape = struct.unpack_from(f"<{len(said) // 8}Q", said, 1)
        if len(_shapes) >= 256:
            _shapes.clear()
            OUTSIDE.clear()
        known = _shapes[said] = np.dtype(said[:1].decode()), shape
        OUTSIDE[_start_of(said) + OUT_OF_IT + _END_2] = known
    return _ARRAY(known[1], known[0], data)


# ---- ranks that run another script --------------------------------------------------------------


def _of_script(body: bytes, section: bytes, *buffers: Any) -> Any:
    return load(body, [memoryview(each) for each in buffers], section)
