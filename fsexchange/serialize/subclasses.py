"""Arrays of any class, and memoryviews, in pickles: reduced to out-of-band buffers."""

from __future__ import annotations

import copyreg
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np

from fsexchange.serialize.arrays import array_bytes, as_array, is_broadcast

if TYPE_CHECKING:
    import numpy.typing as npt

    from fsexchange.serialize.pickling import Pickler

_PICKLING = ("__reduce__", "__reduce_ex__", "__setstate__")

# Fewer bytes are copied into the pickle, which costs less than to look at the memory.
_COPIED_UP_TO = 512


def reduce_memoryview(pickler: Pickler, obj: memoryview) -> Any:
    """Reduce a memoryview to the array that shows the same memory."""
    return _memoryview, (as_array(obj),)


def reduce_array(pickler: Pickler, obj: Any) -> Any:
    """Reduce an array to one out-of-band buffer.

    This works for any strides, dtype and subclass. numpy itself does it only for contiguous arrays
    of plain type, and its pickles name functions that moved between numpy 1 and 2.
    """
    kind = type(obj)
    dtype = obj.dtype
    if dtype.hasobject or dtype.kind not in "biufcmMSUV":
        return NotImplemented
    if kind is not np.ndarray:
        return _reduce_subclass(obj)
    if obj.nbytes < _COPIED_UP_TO and obj.flags.c_contiguous:
        return _ndarray, (bytearray(obj.tobytes()), dtype, obj.shape, "C")
    if is_broadcast(obj):
        once = tuple([slice(None) if step else slice(1) for step in obj.strides])
        return _broadcast, (obj[once], obj.shape)
    order, elements = array_bytes(obj)
    return _ndarray, (pickle.PickleBuffer(elements), dtype, obj.shape, order)


def _reduce_subclass(obj: Any) -> Any:
    kind = type(obj)
    if kind.__name__ == "MaskedArray" and kind is np.ma.MaskedArray:  # importing numpy.ma: 10 ms
        ma: Any = np.ma  # not typed before numpy 2.3
        data, mask = obj.view(np.ndarray), ma.getmask(obj)
        mask = None if mask is ma.nomask else mask
        return _masked, (data, mask, obj._fill_value, obj.hardmask)
    if any(getattr(kind, name) is not getattr(np.ndarray, name) for name in _PICKLING):
        return NotImplemented  # it pickles more than its elements
    if kind in copyreg.dispatch_table:
        return NotImplemented
    return _subclass, (obj.view(np.ndarray), kind)


def _ndarray(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> Any:
    return np.ndarray(shape, dtype, buffer=data, order=order)


def _broadcast(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return np.broadcast_to(array, shape)


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
