"""Functions and classes by value, for processes that cannot import them: cloudpickle.

What is compiled says by which Python, as another one crashes when it runs it, or ends.
"""

from __future__ import annotations

import enum
import functools
import io
import logging
import re
import sys
import types
import typing
import zlib
from collections import ChainMap
from pathlib import PurePath
from typing import Any, ClassVar, NamedTuple

import cloudpickle

from fsexchange.errors import SerializationError

# Globals of these types go along with a function that mentions them; the data of a script does not.
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, typing.TypeVar)
_CONSTANTS = (type(None), bool, int, float, complex, enum.Enum, re.Pattern, PurePath)
_LONGEST_CONSTANT = 1000

# A definition of more bytes has data in it: an array that is an attribute of a class.
_LONGEST = 1 << 20


class Definition(NamedTuple):
    """A function or class as a compressed pickle, and the globals that went along."""

    data: bytes
    """Empty if it cannot be pickled."""
    mentioned: list[tuple[dict[str, Any], str, Any]]


def define(obj: Any) -> Definition:
    """Return the definition of a function or class."""
    main = sys.modules.get("__mp_main__")
    if main is not None:
        cloudpickle.register_pickle_by_value(main)
    file = _File()
    pickler = _Definer(file)
    try:
        pickler.dump(obj)
    except MemoryError:
        raise
    except Exception:  # whatever it is, readers of the same script do not need the definition
        return Definition(b"", [])
    return Definition(zlib.compress(file.getvalue()), pickler.mentioned)


def reducer() -> Any:
    """Return what reduces functions and classes by value, all those of one pickle."""
    return _Pickler(io.BytesIO())


def _reduce_code(code: types.CodeType) -> Any:
    _, args = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return _code, (sys.implementation.cache_tag, *args)


def _code(python: str, *args: Any) -> types.CodeType:
    if python != sys.implementation.cache_tag:
        raise SerializationError(
            f"the object has a function or class by value, which {python} has compiled, and this "
            f"is {sys.implementation.cache_tag}: define it in a module that both import"
        )
    return types.CodeType(*args)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table: ClassVar[Any] = ChainMap(
        {types.CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table
    )


class _File(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > _LONGEST:
            raise OverflowError
        return super().write(data)


class _Definer(_Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.mentioned: list[tuple[dict[str, Any], str, Any]] = []

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is functools.cached_property:  # before Python 3.12 it has a lock
            return functools.cached_property, (obj.func,), {"attrname": obj.attrname}
        reduced = super().reducer_override(obj)
        if type(obj) is types.FunctionType and reduced is not NotImplemented:
            state = reduced[2][1]
            kept = {name: value for name, value in state["__globals__"].items() if _is_code(value)}
            state["__globals__"] = kept
            self.mentioned += [(obj.__globals__, name, value) for name, value in kept.items()]
        return reduced


def _is_code(value: Any) -> bool:
    """Return whether a global is part of the code of a script, not of its data."""
    if isinstance(value, types.ModuleType):
        return sys.modules.get(value.__name__) is value
    if isinstance(value, (str, bytes)):
        return len(value) <= _LONGEST_CONSTANT
    if type(value) in (tuple, frozenset):
        return len(value) <= _LONGEST_CONSTANT and all(map(_is_code, value))
    return isinstance(value, (*_CODE, *_CONSTANTS, logging.Logger))
