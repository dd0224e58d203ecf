"""What a script defines: named as pickle names it, and by value for readers of other scripts.

A pickle names the functions and classes of `__main__` as pickle does. Behind it the object has a
section that only readers look at which run another script:

    size
    4        length of the descriptions
    ...      for each function or class a description:
                 4    CRC-32 of its rest
                 4    length of its text
                 4    length of its definition, 0 if it cannot be pickled
                 4    CRC-32 of its definition
                 ...  text: file, module (if run by `python -m`), name, each but the last ended by 0
    ...      the definitions, compressed pickles, in the same order
"""

from __future__ import annotations

import importlib
import logging  # noqa: F401  (see `_importing`)
import os
import pickle
import struct
import sys
import threading
import zlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from fsexchange.errors import CorruptObjectError, SerializationError
from fsexchange.serialize.crc import crc32

if TYPE_CHECKING:
    from types import ModuleType

#: Names of the module that a script becomes: in its own process, and in a spawned child.
MAINS = ("__main__", "__mp_main__")

_LENGTH = struct.Struct("<I")
_DESCRIPTION = struct.Struct("<4I")

# Stands for the file of a script that has none (`python -c`, a notebook): forked children have the
# same definitions.
_NO_FILE = os.urandom(16).hex()


class Description(NamedTuple):
    """A function or class of a script, as its writer describes it."""

    file: str
    module: str
    """For `python -m`, the name under which other processes can import the script."""
    name: str
    nbytes: int
    crc: int


class _Section(NamedTuple):
    obj: Any
    """The function or class itself: another may have its name later."""
    alone: bytes
    """The section if it is for this function or class alone."""
    mentioned: list[tuple[dict[str, Any], str, Any]]
    """The globals that went along with the definition."""
    description: bytes
    definition: bytes


# ---- the script of this process -----------------------------------------------------------------


class _Script(NamedTuple):
    file: str
    module: str


#: The module `__main__` for which all this was found out.
known_main: ModuleType | None = None
_script = _Script("", "")

#: The `module` of the script, as pickles have it.
importable = b""


def this_script() -> _Script:
    """Return the file of this process's script, and what `python -m` was told to run."""
    global known_main, _script, importable, seen
    main = sys.modules.get("__main__")
    if main is not known_main:  # runpy, and a spawned child, put another one in its place
        file = getattr(main, "__file__", None)
        module = _importable_name(main)
        _mine.clear()
        _sections.clear()
        importable = module.encode("utf-8", "surrogatepass")
        seen = b""
        _script = _Script(_NO_FILE if file is None else os.path.abspath(file), module)
        known_main = main
        if main is not None:
            sys.modules.setdefault("__mp_main__", main)  # as `import multiprocessing` does
    return _script


def _importable_name(main: ModuleType | None) -> str:
    """Return the name of what `python -m` was told to run; empty if to import it would run it."""
    spec = getattr(main, "__spec__", None)
    if spec is None or spec.name.rpartition(".")[2] == "__main__":
        return ""
    try:
        code = getattr(spec.loader, "get_code", lambda name: None)(spec.name)
    except (ImportError, OSError):  # its file was removed, or this user may not read it any more
        return ""
    guarded = code is not None and "__name__" in code.co_names and "__main__" in code.co_consts
    return spec.name if guarded else ""


def find(module: str, name: str) -> Any:
    """Return what has this name in a module; None if nothing has."""
    found: Any = sys.modules.get(module)
    if "." not in name:
        return getattr(found, name, None)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


# ---- what pickles by value ----------------------------------------------------------------------

# A child that is forked while another thread imports a module, or has a lock of cloudpickle, would
# wait for that for ever. So the fork waits for the thread. It must not yet have the lock of
# logging, for which an import may wait: before a fork Python calls first what was registered last,
# so logging is imported above.
_importing = threading.RLock()
_held: list[Any] = []


def _before_fork() -> None:
    _importing.acquire()
    module = sys.modules.get("cloudpickle.cloudpickle")
    lock = getattr(module, "_DYNAMIC_CLASS_TRACKER_LOCK", None)
    # A handler of a signal may fork while its own thread has the lock, which it has for some us.
    if lock is not None and lock.acquire(timeout=1):
        _held.append(lock)


def _after_fork() -> None:
    while _held:
        _held.pop().release()
    _importing.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


@cache
def by_value() -> Any:
    """Return the module `by_value`, which takes 6 ms to import and is rarely needed."""
    with _importing:
        from fsexchange.serialize import by_value
    return by_value


# ---- writing ------------------------------------------------------------------------------------

# By name, so that what a notebook defines again takes the place of what it was before.
_sections: dict[str, _Section] = {}


def section(objs: Sequence[Any]) -> bytes:
    """Return the section for functions and classes of this script."""
    if sys.modules.get("__main__") is not known_main:
        this_script()
    if len(objs) == 1:
        return _section_of(objs[0]).alone
    return _joined([_section_of(obj) for obj in objs])


def _joined(sections: Sequence[_Section]) -> bytes:
    descriptions = b"".join([each.description for each in sections])
    definitions = [each.definition for each in sections]
    return b"".join((_LENGTH.pack(len(descriptions)), descriptions, *definitions))


def name_of(obj: Any) -> str:
    """Return the name of a function, class or type variable in its module."""
    name: str | None = getattr(obj, "__qualname__", None)
    return obj.__name__ if name is None else name


def _section_of(obj: Any) -> _Section:
    name = name_of(obj)
    known = _sections.get(name)
    if known is not None and known.obj is obj:
        for space, each, value in known.mentioned:  # in a third of the time of `all`
            if space.get(each) is not value:
                break
        else:
            return known
    defined = by_value().define(obj)
    text = "\0".join((_script.file, _script.module, name)).encode("utf-8", "surrogateescape")
    lengths = (len(text), len(defined.data), crc32(defined.data))
    rest = _DESCRIPTION.pack(0, *lengths)[_LENGTH.size :] + text
    description = _LENGTH.pack(crc32(rest)) + rest
    made = _Section(obj, b"", defined.mentioned, description, defined.data)
    made = made._replace(alone=_joined([made]))
    _sections[name] = made
    return made


# ---- reading ------------------------------------------------------------------------------------

# Descriptions that are all of this script, and found in it.
_mine: set[bytes] = set()

#: Those seen last, with their length: many objects in a row have the same.
seen = b""

# What definitions became. So a second object of a class is of the same class.
_defined: dict[tuple[Description, bytes], Any] = {}


def is_mine(section: bytes | bytearray | memoryview) -> bool:
    """Return whether plain pickle finds all that an object names in this process's script."""
    global seen
    if sys.modules.get("__main__") is not known_main:
        this_script()
    end = _LENGTH.size + int.from_bytes(section[: _LENGTH.size], "little")
    descriptions = bytes(section[:end])
    if descriptions in _mine:
        seen = descriptions
        return True
    script = _script
    for each in _descriptions(memoryview(section)):
        if each.file != script.file or find("__main__", each.name) is None:
            return False
    if len(_mine) >= 256:
        _mine.clear()
    _mine.add(descriptions)
    return True


def _descriptions(section: bytes | memoryview) -> list[Description]:
    """Return the descriptions, after proving that they are whole."""
    at = _LENGTH.size
    end = at + int.from_bytes(section[:at], "little")
    found: list[Description] = []
    while at < end:
        start = at + _DESCRIPTION.size
        if start > end or end > len(section):
            raise _changed()
        wanted, length, nbytes, crc = _DESCRIPTION.unpack_from(section, at)
        rest = bytes(section[at + _LENGTH.size : start + length])
        if crc32(rest) != wanted or start + length > end:
            raise _changed()
        text = str(section[start : start + length], "utf-8", "surrogateescape")
        file, module, name = text.split("\0")
        found.append(Description(file, module, name, nbytes, crc))
        at = start + length
    if not found or end + sum([each.nbytes for each in found]) != len(section):
        raise _changed()
    return found


class Foreign(pickle.Unpickler):
    """Loads what another script wrote; its functions and classes are imported or made anew."""

    def __init__(self, file: Any, buffers: Any, section: bytes | memoryview) -> None:
        super().__init__(file, buffers=buffers)
        self._named: dict[str, tuple[Description, bytes]] = {}
        if not section:
            return
        at = _LENGTH.size + int.from_bytes(section[: _LENGTH.size], "little")
        for each in _descriptions(section):
            self._named[each.name] = each, bytes(section[at : at + each.nbytes])
            at += each.nbytes

    def find_class(self, module: str, name: str) -> Any:
        script = this_script()
        if module in MAINS and name in self._named:
            return _made(*self._named[name])
        if module == script.module and module not in sys.modules:
            found = find("__main__", name)
            if found is not None:
                return found
        return super().find_class(module, name)


def _made(described: Description, definition: bytes) -> Any:
    if described.file == this_script().file:
        found = find("__main__", described.name)
        if found is not None:
            return found
    if described.module:
        try:
            importlib.import_module(described.module)
        except ImportError:
            pass
        else:
            found = find(described.module, described.name)
            if found is not None:
                return found
    if not described.nbytes:
        raise SerializationError(
            f"the object needs {described.name} of the script {described.file}, which another "
            "script cannot load; define it in a module that both import"
        )
    if crc32(definition) != described.crc:
        raise _changed()
    known = _defined.get((described, definition))
    if known is None:
        if len(_defined) >= 256:
            _defined.clear()
        known = pickle.loads(zlib.decompress(definition))
        _defined[described, definition] = known
    return known


def _changed() -> CorruptObjectError:
    return CorruptObjectError("what the object says of its script was changed since it was written")


# ---- objects that were written before there were sections ---------------------------------------


def _from_main(file: str, name: str, by_value: bytes) -> Any:
    """Return a function or class of a script: this process's own if it runs the same script."""
    if this_script().file == file:
        found = find("__main__", name)
        if found is not None:
            return found
    return pickle.loads(by_value)
