"""Tasks and results as messages: small parts are in the message, large ones in files.

A message is a tuple of builtins, which any engine can pickle: the pickle of the object, the buffers
that this leaves out, and the section of the script (see `serialize.script`). In place of a pickle
or a buffer of `threshold` bytes or more is the key of a file. What is light goes as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pickle import PicklingError, dumps, loads
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple, TypeAlias

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import FileKey
from fsexchange.errors import FsExchangeError, MissingObjectError
from fsexchange.serialize import script
from fsexchange.serialize.kinds import where_named
from fsexchange.serialize.pickling import load, pickled
from fsexchange.store.ref import Ref

# Types whose objects the engine pickles as fast as we do.
_LIGHT = frozenset((type(None), bool, int, float, complex, str, bytes))

Part: TypeAlias = "bytes | bytearray | FileKey"
Message: TypeAlias = "tuple[Part, tuple[Part, ...], bytes]"

# A pickle behind its digest: what all tasks of a function have in common, made and opened once.
LightTask: TypeAlias = "tuple[bytes, bytes]"


def are_light(objs: Iterable[Any], threshold: int) -> bool:
    """Return whether all objects are short and simple, so that nothing in them is to be moved."""
    for obj in objs:
        kind = type(obj)
        if kind not in _LIGHT or ((kind is bytes or kind is str) and len(obj) >= threshold):
            return False
    return True


def light_task(function: Any, config: str, threshold: int) -> LightTask | None:
    """Return what tells a worker to call a function that it finds by its name; else None."""
    kind = type(function)
    if kind is not FunctionType and kind is not BuiltinFunctionType:
        return None
    found = where_named(function)
    if found is None:
        return None
    _, _, is_of_script = found
    # Not each engine has workers that find what the script defines.
    section = script.section([function]) if is_of_script else b""
    try:
        return _light_task(function, section, config, threshold)
    except PicklingError:  # its module is gone; `encode` says so
        return None


@lru_cache(64)
def _light_task(function: Any, section: bytes, config: str, threshold: int) -> LightTask:
    name = script.name_of(function)
    parts = dumps((function.__module__, name, dumps(function, 5), section, config, threshold), 5)
    return hashlib.sha256(parts).digest(), parts


def encode(
    obj: Any,
    threshold: int,
    write: Callable[[Sequence[Any]], FileKey],
    write_buffer: Callable[[memoryview], FileKey],
) -> Message:
    """Return the message of an object.

    `write` writes a long pickle, which is in pieces, and `write_buffer` a large buffer. Raises
    `SerializationError`, and what these raise.
    """
    pieces, buffers, named = pickled(obj)
    section = script.section(named) if named else b""
    body: Part
    if len(pieces) == 1 and len(pieces[0]) < threshold:
        body = bytes(pieces[0])
    elif sum(map(len, pieces)) < threshold:
        body = b"".join(pieces)
    else:
        body = write(pieces)
    if not buffers:
        return body, (), section
    parts = [
        write_buffer(each)
        if each.nbytes >= threshold
        # A copy, as the engine may pickle it later. What is writable arrives so.
        else bytes(each)
        if each.readonly
        else bytearray(each)
        for each in buffers
    ]
    return body, tuple(parts), section


def decode(message: Message, connector: Callable[[], FileConnector]) -> Any:
    """Return the object of a message; its large arrays are private mappings of files."""
    body: Any
    parts: Any
    body, parts, section = message
    if type(body) is FileKey:
        body = _read(body, connector())
    if not parts:
        return load(body, (), section)
    buffers = [_read(part, connector()) if type(part) is FileKey else part for part in parts]
    return load(body, [memoryview(each) for each in buffers], section)


def _read(key: FileKey, connector: FileConnector) -> Any:
    data = connector.get(key)
    if data is None:
        path = connector.path(key)
        raise MissingObjectError(f"{path}, a part of a task, is gone", path=path)
    return data


def decode_result(message: Any, connector: FileConnector) -> Any:
    """Return a result, and remove its files, which nobody else needs."""
    if type(message) is not tuple:
        return message
    try:
        return decode(message, lambda: connector)
    finally:
        discard(message, connector)


def discard(message: Message, connector: FileConnector) -> None:
    """Remove the files of a message."""
    body, parts, _ = message
    evict(connector, [part for part in (body, *parts) if type(part) is FileKey])


def evict(connector: FileConnector, keys: Iterable[FileKey]) -> None:
    """Remove files; those of a store that is gone are gone already."""
    for key in keys:
        with contextlib.suppress(FsExchangeError):
            connector.evict(key)


# ---- in a worker --------------------------------------------------------------------------------


def run(config: str, threshold: int, task: Message) -> Any:
    """Run a task in a worker, and return its result, if that is light, or the message of it."""
    function, args, kwargs = decode(task, lambda: attached(config))
    return encode_result(call(function, args, kwargs), config, threshold)


class _Opened(NamedTuple):
    """A light task in the worker, and where its function was found."""

    function: Any
    module: str
    name: str
    config: str
    threshold: int


# By the digests of their tasks.
_opened: dict[bytes, _Opened] = {}


def run_light(task: LightTask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do what `run` does, with light arguments."""
    opened = _opened.get(task[0])
    # A task may bind the name to something else, which pickle would find.
    if opened is None or script.find(opened.module, opened.name) is not opened.function:
        opened = _open(task)
    result = opened.function(*args, **kwargs)
    return encode_result(result, opened.config, opened.threshold)


def _open(task: LightTask) -> _Opened:
    digest, parts = task
    module, name, body, section, config, threshold = loads(parts)
    if len(_opened) >= 256:
        _opened.clear()
    opened = _Opened(load(body, (), section), module, name, config, threshold)
    _opened[digest] = opened
    return opened


def encode_result(result: Any, config: str, threshold: int) -> Any:
    """Return a light result as it is; else its message, whose files the receiver removes."""
    if are_light((result,), threshold):
        return result
    written: list[FileKey] = []

    def write(pieces: Sequence[Any]) -> FileKey:
        written.append(attached(config).put(pieces))
        return written[-1]

    try:
        return encode(result, threshold, write, lambda buffer: write([buffer]))
    except BaseException:
        if written:
            evict(attached(config), written)
        raise


def call(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call a function; an argument that is a `Ref` is given as its object."""
    for arg in args:
        if isinstance(arg, Ref):
            args = [each.get() if isinstance(each, Ref) else each for each in args]
            break
    for name, arg in kwargs.items():
        if isinstance(arg, Ref):
            kwargs = {**kwargs, name: arg.get()}
    return function(*args, **kwargs)


@lru_cache(8)
def attached(config: str) -> FileConnector:
    """Return this process's connector to the store of an executor."""
    return FileConnector.from_config(json.loads(config))
