"""Arrays of any class, and memoryviews, in pickles: reduced to out-of-band buffers."""

from __future__ import annotations

import copyreg
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np

from fsexchange.serialize.arrays import NATIVE, array_bytes, as_array, is_broadcast

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fsexchange.serialize.pickling import Pickler

_PICKLING = ("__reduce__", "__reduce_ex__", "__setstate__")

# Fewer bytes stay in the pickle, and to copy them costs less than to look at the memory.
_COPIED_UP_TO = 4096

# Arrays of subclasses of fewer bytes are pickled as numpy or their class does it, both copies and
# their CRC included in half the time; masked arrays only if they are copied anyway. Not those of
# which pickle loses something: the order of swapped bytes, a hard mask, that there is no mask.
_SUBCLASS_FROM = 1 << 17

# The names of dtypes that most arrays have, which pickle in less time than the dtypes.
_NAMES = {char: np.dtype(char).str for char in NATIVE}

# The name of their class, and maybe of others.
_MASKED = "MaskedArray"


try:
    from fsexchange.serialize._native import _ndarray as _ndarray
except ImportError:

    def _ndarray(data: Any, dtype: Any, shape: tuple[int, ...], order: Any, /) -> Any:
        """Return the array whose elements some memory holds."""
        return np.ndarray(shape, dtype, buffer=data, order=order)


def reduce_memoryview(pickler: Pickler, obj: memoryview) -> Any:
    """Reduce a memoryview to the array that shows the same memory."""
    return _memoryview, (as_array(obj),)


def _reduce_array(pickler: Pickler, obj: Any) -> Any:
    """Reduce an array to one out-of-band buffer.

    This works for any strides, dtype and subclass. numpy itself does it only for contiguous arrays
    of plain type, and its pickles name functions that moved between numpy 1 and 2.
    """
    kind = type(obj)
    dtype = obj.dtype
    if kind is np.ndarray and dtype.isbuiltin == 1 and dtype.char in _NAMES:
        flags = obj.flags
        if flags.c_contiguous and flags.writeable:  # most arrays: in half the time
            small = obj.nbytes < _COPIED_UP_TO
            data = bytearray(obj.data) if small else pickle.PickleBuffer(obj)
            return _ndarray, (data, _NAMES[dtype.char], obj.shape, "C")
    if dtype.hasobject or dtype.kind not in "biufcmMSUV":
        return NotImplemented
    if kind is not np.ndarray:
        small = obj.nbytes < (_COPIED_UP_TO if _is_masked(kind) else _SUBCLASS_FROM)
        if small and dtype.isnative and not (_is_masked(kind) and _is_changed_by_pickle(obj)):
            return NotImplemented
        return _reduce_subclass(obj)
    if obj.nbytes < _COPIED_UP_TO and obj.flags.c_contiguous:
        return _ndarray, (bytearray(obj.tobytes()), dtype, obj.shape, "C")
    if is_broadcast(obj):
        once = tuple([slice(None) if step else slice(1) for step in obj.strides])
        return _broadcast, (obj[once], obj.shape)
    order, elements = array_bytes(obj)
    # Of what the memoryview shows: if a traceback holds a PickleBuffer of a memoryview in a cycle,
    # the garbage collector of CPython up to 3.11 ends the process (cpython#77894).
    return _ndarray, (pickle.PickleBuffer(elements.obj), dtype, obj.shape, order)


reduce_array: Callable[[Pickler, Any], Any]
try:
    from fsexchange.serialize._native import array_reducer
except ImportError:
    reduce_array = _reduce_array
else:
    reduce_array = array_reducer(
        _ndarray, _reduce_array, _NAMES, _MASKED, _COPIED_UP_TO, _SUBCLASS_FROM
    )


def _is_masked(kind: type) -> bool:
    ma: Any = np.ma if kind.__name__ == _MASKED else None  # importing it: 10 ms
    return ma is not None and kind is ma.MaskedArray


def _is_changed_by_pickle(masked: Any) -> bool:
    ma: Any = np.ma  # not typed before numpy 2.3
    return masked.hardmask or ma.getmask(masked) is ma.nomask


def _reduce_subclass(obj: Any) -> Any:
    kind = type(obj)
    if _is_masked(kind):
        ma: Any = np.ma  # not typed before numpy 2.3
        mask = ma.getmask(obj)
        mask = None if mask is ma.nomask else mask
        return _masked, (obj.data, mask, obj._fill_value, obj.hardmask)
    if kind in copyreg.dispatch_table:
        return NotImplemented
    if all(getattr(kind, name) is getattr(np.ndarray, name) for name in _PICKLING):
        return _subclass, (obj.view(np.ndarray), kind)
    state = _own_state(obj)
    return NotImplemented if state is None else (_with_state, (obj.view(np.ndarray), kind, state))


def _own_state(obj: Any) -> Any:
    """Return what `__setstate__` takes for an array with these attributes, but no elements.

    None if the class does not pickle by way of numpy's own `__reduce__`, as numpy's guide to
    subclasses shows it; then its arrays are parts of what it returns, and are not copied either.
    """
    kind = type(obj)
    try:
        empty: Any = np.ndarray.__new__(kind, (0,), obj.dtype)
        vars(empty).update(vars(obj))
        reduced = empty.__reduce_ex__(5)
    except Exception:  # whatever it is, the class may pickle arrays that have elements
        return None
    by_numpy = type(reduced) is tuple and len(reduced) == 3 and reduced[0] is _RECONSTRUCT
    return reduced[2] if by_numpy and reduced[1][:1] == (kind,) else None


_RECONSTRUCT: Any = np.zeros(0).__reduce__()[0]


def _broadcast(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return np.broadcast_to(array, shape)


def _subclass(array: npt.NDArray[Any], kind: type[npt.NDArray[Any]]) -> Any:
    """Return an array of a class, made from nothing as pickle does; not as a view, which copies
    attributes that a plain array lacks."""
    order: Any = "F" if array.flags.fnc else "C"  # what is broadcast is neither
    if not array.size:
        return np.ndarray.__new__(kind, array.shape, array.dtype, order=order)
    memory = array.reshape(-1, order=order).view(np.uint8)  # datetimes have no buffers
    return np.ndarray.__new__(kind, array.shape, array.dtype, memory, order=order)


def _with_state(array: npt.NDArray[Any], kind: type[npt.NDArray[Any]], state: Any) -> Any:
    empty: Any = np.ndarray.__new__(kind, (0,), array.dtype)
    empty.__setstate__(state)
    made = _subclass(array, kind)
    vars(made).update(vars(empty))
    return made


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
