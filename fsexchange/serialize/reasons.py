"""Why an object cannot be pickled or loaded: what failed, of which type, and where in it."""

from __future__ import annotations

import collections
import functools
import os
import re
import signal
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, FunctionType, MethodType, TracebackType
from typing import Any

from fsexchange.errors import CorruptObjectError, FsExchangeError, SerializationError

#: Errors that have their own meaning while an object is loaded.
PASSED_ON = (MemoryError, FsExchangeError)

_OURS = os.path.dirname(__file__)

# To look at more objects for the one that failed would take too long.
_LOOKED_AT = 100_000


def is_of_handler(error: BaseException) -> bool:
    """Return whether the handler of a signal has raised an error, or its cause.

    Then it says nothing of what was done meanwhile.
    """
    handlers = filter(callable, map(signal.getsignal, signal.valid_signals()))
    codes = {code for code in map(_code_of, handlers) if code is not None}
    for each in (error, error.__cause__):
        traceback = None if each is None else each.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code in codes:
                return True
            traceback = traceback.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    function = getattr(handler, "__func__", handler)
    if not hasattr(function, "__code__"):  # an object with a method for calls
        function = type(function).__call__
    code: CodeType | None = getattr(function, "__code__", None)
    return code


def pickling_error(obj: Any, error: Exception) -> SerializationError:
    """Return the error for an object that cannot be pickled."""
    kind = type(obj)
    found = _place(obj, error)
    place = f", at {found}" if found else ""
    return SerializationError(
        f"cannot serialize a {kind.__module__}.{kind.__qualname__}: {_said(error)}{place}"
    )


def loading_error(error: Exception) -> SerializationError | CorruptObjectError:
    """Return the error for an object that cannot be loaded here."""
    frame, line = _last_frame(error.__traceback__)
    if frame is None:
        if isinstance(error, UnicodeDecodeError):  # of text that the CRC leaves out
            return CorruptObjectError(f"the object was changed since it was written: {error}")
        if isinstance(error, ImportError) or "Can't get attribute" in str(error):
            return SerializationError(
                f"the object needs what this process cannot import: {error}; its path is {sys.path}"
            )
        return SerializationError(f"cannot load the object: {_said(error)}")
    owner = frame.f_locals.get("self", frame.f_locals.get("cls"))
    kind = owner if isinstance(owner, type) else type(owner)
    of = "" if owner is None else f"{kind.__module__}.{kind.__qualname__}."
    code = frame.f_code
    return SerializationError(
        f"cannot load the object: {_said(error)}, in {of}{code.co_name} ({code.co_filename}:{line})"
    )


def _said(error: Exception) -> str:
    text = str(error)
    if isinstance(error, FsExchangeError) or text.startswith(("cannot pickle", "Can't pickle")):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _last_frame(traceback: TracebackType | None) -> tuple[FrameType | None, int]:
    """Return the innermost frame of a program's own code, and its line; not of imports."""
    found: tuple[FrameType | None, int] = None, 0
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if not name.startswith((_OURS, "<frozen importlib")):
            found = traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
    return found


# ---- where in the object ------------------------------------------------------------------------


def _place(obj: Any, error: Exception) -> str:
    """Return the way to the part that failed, such as `.model['a'][3]`; empty if it is unknown."""
    named = re.match(r"cannot pickle '([^']*)'", str(error))
    frame, _ = _last_frame(error.__traceback__)
    owner = None if frame is None else frame.f_locals.get("self")
    if named is None and owner is None:
        return ""
    waiting = collections.deque([("", obj)])
    seen = {id(obj)}
    while waiting and len(seen) < _LOOKED_AT:
        place, part = waiting.popleft()
        if part is owner or (named is not None and named[1] in _names(type(part))):
            return place
        for step, inner in _parts(part):
            if id(inner) not in seen:
                seen.add(id(inner))
                waiting.append((place + step, inner))
    return ""


def _names(kind: type) -> tuple[str, str]:
    return kind.__name__, f"{kind.__module__}.{kind.__qualname__}"


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds, without asking it."""
    if isinstance(obj, dict):
        for key, value in dict.items(obj):
            name = repr(key) if isinstance(key, (str, int)) else f"a {type(key).__name__}"
            yield f"[{name:.50}]", value
            yield "'s key", key
    elif isinstance(obj, (list, tuple)):
        for n, value in enumerate(obj):
            yield f"[{n}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in obj:
            yield "'s member", value
    elif isinstance(obj, MethodType):
        yield ".__self__", obj.__self__
    elif isinstance(obj, FunctionType):
        for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=False):
            try:
                yield f"'s variable {name}", cell.cell_contents
            except ValueError:  # not bound yet
                pass
        for n, value in enumerate(obj.__defaults__ or ()):
            yield f"'s default {n}", value
        for name in obj.__code__.co_names:
            if name in obj.__globals__:
                yield f"'s global {name}", obj.__globals__[name]
        return
    try:
        attributes = object.__getattribute__(obj, "__dict__")
    except AttributeError:
        attributes = {}
    for name, value in dict.items(attributes) if type(attributes) is dict else ():
        yield f".{name}", value
    for kind in type(obj).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            try:
                yield f".{name}", object.__getattribute__(obj, name)
            except AttributeError:
                pass
