"""Plain instances: objects that are pickled as `object` does it. Most dataclasses are such.

pickle finds this out for each of them again, by a dozen lookups, which take longer than to pickle
what the object holds. Here it is found out once for a class.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from types import GetSetDescriptorType
from typing import Any, NamedTuple, TypeAlias

from fsexchange.serialize.simple import simple_pickle

#: Names of attributes and their values: NotImplemented for those that there must not be.
Attributes: TypeAlias = "tuple[tuple[str, Any], ...]"


def has_attributes_in_python(obj: Any, attributes: Attributes, /) -> bool:
    """Return whether an object has all of these attributes."""
    for name, value in attributes:  # noqa: SIM110  (in half the time of `all`)
        if getattr(obj, name, NotImplemented) is not value:
            return False
    return True


try:
    from fsexchange.serialize._native import has_attributes
except ImportError:
    has_attributes = has_attributes_in_python

# How a class says how its instances are pickled. Before Python 3.11 `object` has no `__getstate__`;
# there an instance is asked for one, and its `__getattr__` may answer.
_SAID_BY = ["__reduce_ex__", "__reduce__", "__getstate__"]
if not hasattr(object, "__getstate__"):
    _SAID_BY.append("__getattr__")

#: The same of `object`.
WAYS: Attributes = tuple((name, getattr(object, name, NotImplemented)) for name in _SAID_BY)
_SOME_HAVE = frozenset({"__getnewargs__", "__getnewargs_ex__", "__class__", "__getattribute__"})

_PROTOCOL = pickle.PROTO + b"\x05"
_NEW = pickle.STACK_GLOBAL + pickle.EMPTY_TUPLE + pickle.NEWOBJ
_END = pickle.BUILD + pickle.STOP

#: How pickle makes an instance.
NEWOBJ: Any = getattr(copyreg, "__newobj__")  # noqa: B009  (else mangled)
_reducers = copyreg.dispatch_table
# The most bytes of the pickle of the attributes: it is one frame then.
_SHORT = 1 << 14


class Plain(NamedTuple):
    """A class whose instances are plain, and which pickle finds in a module by its name."""

    start: bytes
    """All of an instance's pickle but its `__dict__`."""
    names: tuple[str, str]
    """That of its module, and its own."""
    attributes: Attributes
    """What is so only as long as this is right."""
    is_of_script: bool


#: The classes with plain instances, of those that were decided.
INSTANCES: dict[type, Plain] = {}


class _Empty:
    """Its instances consist of a `__dict__`."""


_SIZES = _Empty.__basicsize__, _Empty.__itemsize__
# What a class has under `__dict__` if its instances show their own.
_OF_OBJECT = (type(None), GetSetDescriptorType)


def is_plain(kind: type) -> bool:
    """Return whether instances of a class are plain."""
    *bases, _ = kind.__mro__
    return (
        type(kind) is type
        and bool(kind.__dictoffset__)
        and has_attributes(kind, WAYS)
        and (kind.__basicsize__, kind.__itemsize__) == _SIZES  # else it is of a class of C
        and not any(vars(each).get("__slots__") for each in bases)
        and all(_SOME_HAVE.isdisjoint(vars(each)) for each in bases)
        and all(type(vars(each).get("__dict__")) in _OF_OBJECT for each in bases)
    )


def keep(kind: type, *, is_of_script: bool) -> None:
    """Keep what is known of a class with plain instances, unless it is part of another."""
    names = kind.__module__, kind.__qualname__
    if "." in names[1]:
        return
    attributes = (*WAYS, ("__module__", names[0]), ("__qualname__", names[1]))
    encoded = [name.encode("utf-8", "surrogatepass") for name in names]
    texts = [pickle.BINUNICODE + len(name).to_bytes(4, "little") + name for name in encoded]
    start = b"".join((_PROTOCOL, *texts, _NEW))
    INSTANCES[kind] = Plain(start, names, attributes, is_of_script)


def reduce_plain(pickler: Any, obj: Any) -> Any:
    """Reduce a plain instance."""
    kind, state = type(obj), obj.__dict__
    if not has_attributes(kind, WAYS) or kind in _reducers:  # by now
        return NotImplemented
    if "__reduce_ex__" in state or "__getstate__" in state:  # for this one object
        return NotImplemented
    return NEWOBJ, (kind,), state or None


def pickle_of_plain_in_python(obj: Any, plain: Plain, /) -> bytes | None:
    """Return the pickle of a plain instance with simple attributes; None for others."""
    start, (module, name), attributes, _ = plain
    kind, state = type(obj), obj.__dict__
    if not state or "__reduce_ex__" in state or "__getstate__" in state:
        return None
    if kind in _reducers or not has_attributes(kind, attributes):
        return None
    if getattr(sys.modules.get(module), name, None) is not kind:
        return None
    attributes_of_it = simple_pickle(state, _SHORT)
    return None if attributes_of_it is None else b"".join((start, attributes_of_it[2:-1], _END))


try:
    from fsexchange.serialize._native import pickle_of_plain as pickle_of_plain
except ImportError:
    pickle_of_plain = pickle_of_plain_in_python
