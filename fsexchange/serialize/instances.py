"""Plain instances: objects that are pickled as `object` does it. Most dataclasses are such.

pickle finds this out for each of them again, by a dozen lookups, which take longer than to pickle
what the object holds. Here it is found out once for a class.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Callable, Iterable
from operator import attrgetter
from types import GetSetDescriptorType
from typing import Any, NamedTuple


def _ways_before_3_11(kind: type) -> tuple[Any, ...]:
    # There an object is asked for its `__getstate__`, and its `__getattr__` may answer.
    asked = [getattr(kind, name, _NONE) for name in ("__getstate__", "__getattr__")]
    return kind.__reduce_ex__, kind.__reduce__, *asked


_NONE = object()


# How a class says how its instances are pickled.
_ways_of: Callable[[type], tuple[Any, ...]] = (
    attrgetter("__reduce_ex__", "__reduce__", "__getstate__")
    if hasattr(object, "__getstate__")
    else _ways_before_3_11
)
_WAYS_OF_OBJECT = _ways_of(object)
_names_of = attrgetter("__module__", "__qualname__")
_SOME_HAVE = frozenset({"__getnewargs__", "__getnewargs_ex__", "__class__", "__getattribute__"})

_PROTOCOL = pickle.PROTO + b"\x05"
_NEW = pickle.STACK_GLOBAL + pickle.EMPTY_TUPLE + pickle.NEWOBJ
_END = pickle.BUILD + pickle.STOP

_newobj: Any = getattr(copyreg, "__newobj__")  # noqa: B009  (else mangled)
_reducers = copyreg.dispatch_table
_dumps = pickle.dumps

# Types of objects that name nothing, and with which pickle needs no help.
_NUMBERS = frozenset({type(None), bool, int, float, complex})
_SIZED = frozenset({str, bytes, bytearray})

# Bytes or characters of short ones.
_SHORT = 3072

# A pickle of more attributes is worth the lookups.
_FEW = 64


class Plain(NamedTuple):
    """A class whose instances are plain, and which pickle finds in a module by its name."""

    start: bytes
    """All of an instance's pickle but its `__dict__`."""
    names: tuple[str, str]
    """That of its module, and its own."""
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
        and _ways_of(kind) == _WAYS_OF_OBJECT
        and (kind.__basicsize__, kind.__itemsize__) == _SIZES  # else it is of a class of C
        and not any(vars(each).get("__slots__") for each in bases)
        and all(_SOME_HAVE.isdisjoint(vars(each)) for each in bases)
        and all(type(vars(each).get("__dict__")) in _OF_OBJECT for each in bases)
    )


def keep(kind: type, *, is_of_script: bool) -> None:
    """Keep what is known of a class with plain instances, unless it is part of another."""
    names = _names_of(kind)
    if "." in names[1]:
        return
    encoded = [name.encode() for name in names]
    texts = [pickle.BINUNICODE + len(name).to_bytes(4, "little") + name for name in encoded]
    INSTANCES[kind] = Plain(b"".join((_PROTOCOL, *texts, _NEW)), names, is_of_script)


def are_short(objs: Iterable[Any]) -> bool:
    """Return whether all objects are numbers, or short text or bytes."""
    for obj in objs:
        kind = type(obj)
        if kind not in _NUMBERS and (kind not in _SIZED or len(obj) > _SHORT):
            return False
    return True


def reduce_plain(pickler: Any, obj: Any) -> Any:
    """Reduce a plain instance."""
    kind, state = type(obj), obj.__dict__
    if _ways_of(kind) != _WAYS_OF_OBJECT or kind in _reducers:  # by now
        return NotImplemented
    if "__reduce_ex__" in state or "__getstate__" in state:  # for this one object
        return NotImplemented
    return _newobj, (kind,), state or None


def pickle_of_plain(obj: Any, plain: Plain) -> bytes | None:
    """Return the pickle of a plain instance with short attributes; None for others."""
    start, names, _ = plain
    kind, state = type(obj), obj.__dict__
    if not 0 < len(state) <= _FEW or "__reduce_ex__" in state or "__getstate__" in state:
        return None
    state = state.copy()  # which no other thread changes
    for attribute, value in state.items():  # as in `are_short`
        of = type(value)
        if of not in _NUMBERS and (of not in _SIZED or len(value) > _SHORT):
            return None
        if type(attribute) is not str:
            return None
    if _ways_of(kind) != _WAYS_OF_OBJECT or kind in _reducers or _names_of(kind) != names:
        return None
    module, name = names
    if getattr(sys.modules.get(module), name, None) is not kind:
        return None
    return b"".join((start, _dumps(state, 5)[2:-1], _END))
