"""How objects of each kind are reduced: one table, in which a kind has a row."""

from __future__ import annotations

import copyreg
import importlib
import pickle
import sys
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from fsexchange.serialize import libraries, script
from fsexchange.serialize.instances import (
    INSTANCES,
    NEWOBJ,
    WAYS,
    is_plain,
    keep,
    reduce_plain,
)
from fsexchange.serialize.subclasses import reduce_array, reduce_memoryview

if TYPE_CHECKING:
    from fsexchange.serialize.pickling import Pickler

#: Takes the pickler and an object and returns what `reducer_override` returns.
Reducer: TypeAlias = "Callable[[Pickler, Any], Any]"


#: Where pickle finds a function or class by its name: the names of its module, its own name, and
#: whether it is of the script.
Where: TypeAlias = "tuple[dict[str, Any], str, bool]"

# By the id of the function or class. A later object with the same id is not found there, unless it
# has the same name in the same place.
FOUND: dict[int, Where] = {}


def _named(pickler: Pickler, obj: Any) -> Any:
    """Reduce a function, class or type variable: by reference as pickle does, else by value."""
    found = where_named(obj)
    if found is None:
        return NotImplemented if obj in _SINGLETONS else _by_value(pickler, obj)
    _, _, is_of_script = found
    if is_of_script:
        pickler.more.append(obj)
    return NotImplemented


def where_named(obj: Any) -> Where | None:
    """Return where pickle finds a function or class by its name; None if it does not."""
    known = FOUND.get(id(obj))
    if known is not None:
        space, name, _ = known
        if obj.__name__ == name and space.get(name) is obj:
            return known
    module, name = obj.__module__, script.name_of(obj)
    if not isinstance(module, str):
        return None
    if module not in sys.modules:
        try:
            importlib.import_module(module)
        except ImportError:
            return None
    if script.find(module, name) is not obj:
        return None
    found = vars(sys.modules[module]), name, module in script.MAINS
    if "." in name:  # what holds it may get another definition
        return found
    if len(FOUND) >= 1024:
        FOUND.clear()
    FOUND[id(obj)] = found
    return found


# What pickle has a way of its own for.
_SINGLETONS = (type(None), type(Ellipsis), type(NotImplemented))


def _by_value(pickler: Pickler, obj: Any) -> Any:
    """Reduce what pickle cannot, as cloudpickle does."""
    reducer = pickler.by_value
    reduce = reducer.dispatch_table.get(type(obj))
    return reducer.reducer_override(obj) if reduce is None else reduce(obj)


def _method(pickler: Pickler, obj: Any) -> Any:
    """Reduce a bound method: pickle looks it up by its name, which not every one has."""
    if getattr(obj.__self__, obj.__func__.__name__, None) == obj:
        return NotImplemented
    return types.MethodType, (obj.__func__, obj.__self__)


def _file(pickler: Pickler, obj: Any) -> Any:
    """Reduce the standard streams; pickle refuses all other files."""
    for name in ("stdout", "stderr"):
        if obj is getattr(sys, f"__{name}__"):
            return getattr, (sys, f"__{name}__")
    return NotImplemented


# The full name of a type -> how its instances are reduced; not those of types derived from it.
_KINDS: dict[str, Reducer] = {
    "builtins.memoryview": reduce_memoryview,
    "array.array": libraries.reduce_array_array,
    "_io.BytesIO": libraries.reduce_bytes_io,
    "astropy.table.table.QTable": libraries.reduce_astropy_table,
    "astropy.table.table.Table": libraries.reduce_astropy_table,
    "jaxlib._jax.ArrayImpl": libraries.reduce_jax,
    "jaxlib.xla_extension.ArrayImpl": libraries.reduce_jax,
    "pandas.arrays.ArrowExtensionArray": libraries.reduce_pandas_arrow,
    "pandas.arrays.ArrowStringArray": libraries.reduce_pandas_arrow,
    "pandas.core.arrays.arrow.array.ArrowExtensionArray": libraries.reduce_pandas_arrow,
    "pandas.core.arrays.string_arrow.ArrowStringArray": libraries.reduce_pandas_arrow,
    "pandas.core.arrays.string_arrow.ArrowStringArrayNumpySemantics": libraries.reduce_pandas_arrow,
    "polars.dataframe.frame.DataFrame": libraries.reduce_polars,
    "polars.series.series.Series": libraries.reduce_polars,
    "torch.storage.TypedStorage": libraries.reduce_torch_storage,
    "builtins.function": _named,
    "typing.TypeVar": _named,
    "builtins.method": _method,
    "_io.TextIOWrapper": _file,
    # What pickle cannot, and what functions and classes by value consist of.
    "builtins.cell": _by_value,
    "builtins.classmethod": _by_value,
    "builtins.code": _by_value,
    "builtins.dict_items": _by_value,
    "builtins.dict_keys": _by_value,
    "builtins.dict_values": _by_value,
    "builtins.getset_descriptor": _by_value,
    "builtins.mappingproxy": _by_value,
    "builtins.module": _by_value,
    "builtins.odict_items": _by_value,
    "builtins.odict_keys": _by_value,
    "builtins.odict_values": _by_value,
    "builtins.property": _by_value,
    "builtins.staticmethod": _by_value,
    "abc.abstractclassmethod": _by_value,
    "abc.abstractproperty": _by_value,
    "abc.abstractstaticmethod": _by_value,
    "dataclasses._FIELD_BASE": _by_value,
}


# The same for the types derived from it, too.
_FAMILIES: dict[str, Reducer] = {
    "builtins.type": _named,
    "numpy.ndarray": reduce_array,
    "pyarrow.lib.Array": libraries.reduce_arrow_array,
}


def _of_kind(kind: type) -> Reducer | None:
    names = [f"{each.__module__}.{each.__qualname__}" for each in kind.__mro__]
    for name in names:
        if name in _FAMILIES:
            return _FAMILIES[name]
    return _KINDS.get(names[0])


# Py_TPFLAGS_HEAPTYPE: the type was made at run time.
_HEAP_TYPE = 1 << 9

#: How instances of types are reduced, None as pickle does it, where that was decided.
HOW: dict[type, Reducer | None] = {}

# The same of types that no module has, which may go again.
_passing: weakref.WeakKeyDictionary[type, Reducer | None] = weakref.WeakKeyDictionary()


def decide(kind: type) -> Reducer | None:
    """Decide how instances of a type are reduced."""
    how = None
    if kind not in copyreg.dispatch_table:  # by its user or its library
        try:
            return _passing[kind]
        except KeyError:
            how = _of_kind(kind)
    if how is None and is_plain(kind):
        how = reduce_plain
    if not kind.__flags__ & _HEAP_TYPE:
        HOW[kind] = how
    elif script.find(kind.__module__, kind.__qualname__) is kind:  # others may go again
        if len(HOW) >= 4096:  # a notebook may define a class again and again
            HOW.clear()
            INSTANCES.clear()
        HOW[kind] = how
        where = where_named(kind)
        if how is reduce_plain and where is not None:
            keep(kind, is_of_script=where[2])
    elif how is not reduce_plain and kind not in copyreg.dispatch_table:
        _passing[kind] = how
    return how


class AskingInPython(pickle.Pickler):
    """A pickler that asks the tables about every object."""

    more: list[Any]
    """Gets the functions and classes of the script that the pickle names."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        try:
            how: Any = HOW[kind]
        except KeyError:
            how = decide(kind)
        if how is _named:
            try:  # as in `where_named`: there is one in almost every pickle
                space, name, is_of_script = FOUND[id(obj)]
                if space[name] is obj and obj.__name__ == name:
                    if is_of_script:
                        self.more.append(obj)
                    return NotImplemented
            except KeyError:
                pass
        return NotImplemented if how is None else how(self, obj)


try:
    from fsexchange.serialize._native import asking
except ImportError:
    Asking: Any = AskingInPython
else:
    _tables = HOW, FOUND, decide, _named, reduce_plain, WAYS, copyreg.dispatch_table, NEWOBJ
    Asking = asking(pickle.Pickler, *_tables)
