"""Pickles of protocol 5 whose arrays are out-of-band buffers, never copies."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fsexchange.errors import SerializationError
from fsexchange.serialize.arrays import array_bytes, as_array

if TYPE_CHECKING:
    import numpy.typing as npt

# A buffer of fewer bytes stays in the pickle. Outside it would cost more: an entry in the table,
# padding, and one more piece for writev.
_OUT_OF_BAND_FROM = 512

#: Names of the module that a script becomes: in its own process, and in a spawned child.
MAINS = ("__main__", "__mp_main__")


class Pickler(pickle.Pickler):
    """Plain pickle, but it refuses what only a script's own processes can import."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (np.ndarray, memoryview)):
            return reduce_buffer(obj)
        if isinstance(obj, (type, FunctionType, TypeVar)) and obj.__module__ in MAINS:
            raise _ByValueError
        return NotImplemented


class _ByValueError(Exception):
    """Plain pickle would write the name of a function or class that other processes lack."""


def dump(pickler: Callable[..., Any], obj: Any) -> tuple[bytes, list[memoryview]]:
    """Return the pickle of `obj` by a pickler of this class, and its out-of-band buffers."""
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


def load(body: bytes | memoryview, buffers: Sequence[memoryview] = ()) -> Any:
    """Return the object of a pickle; `SerializationError` if a part cannot be imported here."""
    try:
        return pickle.loads(body, buffers=buffers)
    except (ImportError, AttributeError) as error:
        raise SerializationError(
            f"the object needs what this process cannot import: {error}; its path is {sys.path}"
        ) from error


# ---- arrays and memoryviews ---------------------------------------------------------------------

_PICKLING = ("__reduce__", "__reduce_ex__", "__setstate__")


def reduce_buffer(obj: Any) -> Any:
    """Reduce an array or memoryview to one out-of-band buffer, as `reducer_override` does.

    This works for any strides, dtype and subclass. numpy itself does it only for contiguous arrays
    of plain type, and its pickles name functions that moved between numpy 1 and 2.
    """
    if isinstance(obj, memoryview):
        return _memoryview, (as_array(obj),)
    kind = type(obj)
    if obj.dtype.hasobject or obj.dtype.kind not in "biufcmMSUV":
        return NotImplemented
    if kind.__name__ == "MaskedArray" and kind is np.ma.MaskedArray:  # importing numpy.ma: 10 ms
        ma: Any = np.ma  # not typed before numpy 2.3
        data, mask = obj.view(np.ndarray), ma.getmask(obj)
        mask = None if mask is ma.nomask else mask
        return _masked, (data, mask, obj._fill_value, obj.hardmask)
    if kind is not np.ndarray:
        if any(getattr(kind, name) is not getattr(np.ndarray, name) for name in _PICKLING):
            return NotImplemented  # it pickles more than its elements
        if kind in copyreg.dispatch_table:
            return NotImplemented
        return _subclass, (obj.view(np.ndarray), kind)
    order, elements = array_bytes(obj)
    return _ndarray, (pickle.PickleBuffer(elements), obj.dtype, obj.shape, order)


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


# ---- functions and classes of a script ----------------------------------------------------------


def place_in_main(obj: Any) -> tuple[str, str] | None:
    """Return the script's file, and the name of `obj` in it; None if it is not there by a name."""
    file, name = _main_file(obj.__module__), obj.__qualname__
    return (file, name) if file and _find(obj.__module__, name) is obj else None


def _from_main(file: str, name: str, by_value: bytes) -> Any:
    """Return a function or class of a script: this process's own if it runs the same script.

    So `isinstance` and `except` work between the processes of one script. Processes of other
    scripts cannot import it, and get a copy.
    """
    for module in MAINS:
        if _main_file(module) == file:
            found = _find(module, name)
            if found is not None:
                return found
    return load(by_value)


def _main_file(module: str) -> str | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else os.path.abspath(file)


def _find(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
