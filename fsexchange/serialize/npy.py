"""The `.npy` format (numpy.lib.format): what it can hold, the header of a file, and its array."""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fsexchange.errors import CorruptObjectError, SerializationError
from fsexchange.serialize.format import truncated

if TYPE_CHECKING:
    import numpy.typing as npt

#: The first bytes of every `.npy` file.
NPY_MAGIC = b"\x93NUMPY"

#: So many bytes of a `.npy` file hold all that is before its elements.
NPY_HEAD = 1 << 16

_npy: Any = np.lib.format  # not typed before numpy 2.3


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], *, fortran: bool = False) -> bytes:
    """Return what is before the elements in a `.npy` file; a multiple of 64 bytes."""
    file = io.BytesIO()
    fields = {"descr": _descr(dtype), "fortran_order": fortran, "shape": shape}
    try:
        _npy.write_array_header_1_0(file, fields)
    except ValueError:  # longer than 64 KiB
        file = io.BytesIO()
        _npy.write_array_header_2_0(file, fields)
    return file.getvalue()


def check_dtype(dtype: np.dtype[Any], name: str, advice: str) -> None:
    """Raise `TypeError`, with advice, for a dtype that a `.npy` file cannot say."""
    if dtype.hasobject:
        raise TypeError(f"a {name} of Python objects ({dtype}): {advice}")
    if _npy.descr_to_dtype(_descr(dtype)) != dtype:
        raise TypeError(f"a {name} of dtype {dtype}, which a .npy file cannot say")


def check_numbers(array: object, name: str) -> None:
    """Raise `TypeError` for what is more than the numbers, which are all that a `.npy` keeps."""
    kind = type(array)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"a {name} with a mask ({kind.__name__}): a .npy file has none; fill it first: "
            f"{name}.filled()"
        )
    # A memmap differs from an array in where it lies. Quantities of pint are no arrays themselves.
    array_of_its_own = isinstance(array, np.ndarray) and kind not in (np.ndarray, np.memmap)
    if array_of_its_own or hasattr(kind, "unit") or hasattr(kind, "units"):
        raise TypeError(
            f"a {name} of class {kind.__name__}, of which a .npy file keeps the numbers alone; "
            f"pass these: np.asarray({name})"
        )


def _descr(dtype: np.dtype[Any]) -> Any:
    with warnings.catch_warnings():
        # numpy 2.2 warns of metadata in every dtype with subarrays.
        warnings.simplefilter("ignore", UserWarning)
        return _npy.dtype_to_descr(dtype)


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
    expected = npy_length(start)
    if expected != nbytes:
        raise truncated(expected, nbytes)


def npy_length(start: bytes) -> int:
    """Return how long a `.npy` file is by its first `NPY_HEAD` bytes."""
    shape, _, dtype, elements = npy_layout(memoryview(start))
    return elements + dtype.itemsize * math.prod(shape)


def npy_layout(view: memoryview) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any], int]:
    """Return shape, order and dtype of a `.npy` file, and where its elements start."""
    # Unless told to trust a file, numpy accepts headers of at most 10,000 bytes.
    head = io.BytesIO(view[:NPY_HEAD])
    try:
        version = _npy.read_magic(head)
        if version > (2, 0):
            raise SerializationError(f".npy of version {version}: load it by numpy.load")
        old = version == (1, 0)
        shape, fortran, dtype = (
            _npy.read_array_header_1_0(head) if old else _npy.read_array_header_2_0(head)
        )
    except SerializationError:
        raise
    except Exception as error:  # whatever Python's tokenizer and parser raise: MemoryError, too
        raise CorruptObjectError(f"a damaged .npy file: {error}") from error
    if not all(0 <= n < 1 << 63 for n in shape):  # numpy takes any integers
        raise CorruptObjectError("a damaged .npy file: no array has its shape")
    if dtype.hasobject:
        raise SerializationError("the .npy file holds Python objects: load it by numpy.load")
    return shape, "F" if fortran else "C", dtype, head.tell()
