"""Objects of other libraries as their large buffers; a library is imported by its own objects.

Each `reduce_` function returns what `reducer_override` returns, and has a row in the table of
`kinds`. The others are what stored pickles name.
"""

from __future__ import annotations

import copyreg
import importlib
import io
import pickle
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fsexchange.serialize.pickling import Pickler

# A slice is copied out of its parent if that is this many times as large.
_TRIMMED_FROM = 1.1
_SMALL = 4096

# Less data polars pickles in less time than it takes to make Arrow arrays of it.
_POLARS_FROM = 1 << 19


def reduce_array_array(pickler: Pickler, obj: array[Any]) -> Any:
    """Reduce an `array.array` to its memory."""
    return _array_array, (obj.typecode, pickle.PickleBuffer(obj))


def _array_array(typecode: str, data: memoryview) -> array[Any]:
    made: array[Any] = array(typecode)
    made.frombytes(data)
    return made


def reduce_bytes_io(pickler: Pickler, obj: io.BytesIO) -> Any:
    """Reduce a BytesIO to its bytes, which it shares until somebody writes to it."""
    if obj.closed:
        return NotImplemented
    return _bytes_io, (obj.getvalue(), obj.tell(), vars(obj) or None)


def _bytes_io(data: bytes, position: int, attributes: dict[str, Any] | None) -> io.BytesIO:
    made = io.BytesIO(data)
    if position:
        made.seek(position)
    if attributes:
        vars(made).update(attributes)
    return made


def reduce_arrow_array(pickler: Pickler, obj: Any) -> Any:
    """Reduce a slice of a pyarrow array to what it shows."""
    whole = obj.get_total_buffer_size()
    # Last, as it takes 2 to 11 us, the size of what it shows.
    if (
        whole <= _SMALL
        or whole <= _TRIMMED_FROM * _elements(obj) + _SMALL
        or whole <= _TRIMMED_FROM * obj.nbytes + _SMALL
    ):
        return NotImplemented
    pyarrow = importlib.import_module("pyarrow")
    if not pyarrow.types.is_primitive(obj.type) or obj.type.bit_width % 8:
        return pyarrow.concat_arrays([obj]).__reduce__()  # a copy
    validity, elements = obj.buffers()
    skipped = obj.offset - obj.offset % 8  # a byte of the validity shows eight elements
    offset, end = obj.offset - skipped, obj.offset - skipped + len(obj)
    if validity is not None:
        validity = validity.slice(skipped // 8, (end + 7) // 8)
    width = obj.type.bit_width // 8
    elements = elements.slice(skipped * width, end * width)
    trimmed = pyarrow.Array.from_buffers(obj.type, len(obj), [validity, elements], offset=offset)
    return trimmed.__reduce__()


def _elements(obj: Any) -> int:
    """Return the bytes of the elements of a pyarrow array, 0 if they are of different lengths."""
    try:
        return int(len(obj) * obj.type.bit_width // 8)
    except ValueError:
        return 0


def reduce_pandas_arrow(pickler: Pickler, obj: Any) -> Any:
    """Reduce a pandas column over one chunk of pyarrow as pandas does, but do not combine it."""
    chunked = obj._pa_array
    if chunked.num_chunks != 1:
        return NotImplemented
    state = {**vars(obj), "_pa_array": chunked.chunk(0)}
    if "_cache" in state:
        state["_cache"] = {}
    return getattr(copyreg, "__newobj__"), (type(obj),), state  # noqa: B009  (else mangled)


def reduce_polars(pickler: Pickler, obj: Any) -> Any:
    """Reduce a DataFrame or Series of polars to what pyarrow has for it, if that loses nothing."""
    if obj.estimated_size() < _POLARS_FROM:
        return NotImplemented
    polars = importlib.import_module("polars")
    try:
        arrow = obj.to_arrow(compat_level=polars.CompatLevel.newest())
        name = None if isinstance(obj, polars.DataFrame) else obj.name
        same = _schema(_polars(arrow, name)) == _schema(obj)
    except Exception:  # whatever it is: polars pickles it, too
        return NotImplemented
    return (_polars, (arrow, name)) if same else NotImplemented


def _schema(obj: Any) -> Any:
    return getattr(obj, "schema", None) or (obj.name, obj.dtype)


def _polars(arrow: Any, name: str | None) -> Any:
    made = importlib.import_module("polars").from_arrow(arrow, rechunk=False)
    return made if name is None else made.alias(name)


def reduce_astropy_table(pickler: Pickler, obj: Any) -> Any:
    """Reduce a Table or QTable of astropy as astropy does, which copies its columns both ways."""
    if obj.indices:  # only a copy of a column keeps its index
        return NotImplemented
    column = importlib.import_module("astropy.table.column")
    quantity = importlib.import_module("astropy.units").Quantity
    columns = dict(obj.columns)
    for name, data in columns.items():
        if isinstance(data, quantity):
            columns[name] = data[:]  # which does not name the table
        elif not isinstance(data, column.BaseColumn):
            columns[name] = column.col_copy(data)
    return _astropy_table, (type(obj), columns, obj.meta)


def _astropy_table(kind: Any, columns: dict[str, Any], meta: Any) -> Any:
    return kind(columns, meta=meta, copy=False)


def reduce_jax(pickler: Pickler, obj: Any) -> Any:
    """Reduce an array of JAX in the memory of the host to an array of numpy."""
    devices = obj.devices()
    if len(devices) != 1 or next(iter(devices)).platform != "cpu" or obj.weak_type:
        return NotImplemented
    return _jax, (np.asarray(obj),)


def _jax(data: Any) -> Any:
    return importlib.import_module("jax").device_put(data, may_alias=True)


def reduce_torch_storage(pickler: Pickler, obj: Any) -> Any:
    """Reduce the storage of torch tensors in the memory of the host to its bytes."""
    torch = importlib.import_module("torch")
    storage = obj._untyped_storage
    if storage.device.type != "cpu" or not storage.nbytes():
        return NotImplemented
    memory = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return _torch_storage, (memory, obj.dtype)


def _torch_storage(memory: Any, dtype: Any) -> Any:
    torch = importlib.import_module("torch")
    storage = torch.from_numpy(memory).untyped_storage()
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
