"""Every error that fsexchange raises, each also the builtin that it means.

The message says what happened, where, and what to do; the attributes say the same to a program.
Errors travel between ranks and pool workers, so each survives pickling whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class FsExchangeError(Exception):
    """Root of all fsexchange errors; keyword arguments become attributes.

    >>> try:
    ...     raise CorruptObjectError("short object", path="/scratch/x", expected=10, actual=3)
    ... except FsExchangeError as error:
    ...     print(error, error.expected - error.actual)
    short object 7
    """

    def __init__(self, message: str, **attributes: Any) -> None:
        super().__init__(message)
        for name, value in attributes.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        attributes = dict(self.__dict__)
        if isinstance(self, OSError) and self.errno is not None:
            attributes["errno"] = self.errno  # kept by OSError outside the instance's __dict__
        return _rebuild, (type(self), self.args[0], attributes)


def _rebuild(
    kind: type[FsExchangeError], message: str, attributes: dict[str, Any]
) -> FsExchangeError:
    notes = attributes.pop("__notes__", None)
    error = kind(message, **attributes)
    if notes:
        setattr(error, "__notes__", notes)  # noqa: B010  (from add_note, Python 3.11)
    return error


class InvalidKeyError(FsExchangeError, ValueError):
    """The key names no object that this store can hold; nothing was touched."""

    filename: str | None = None


class KeyExistsError(FsExchangeError, FileExistsError):
    """A write-once key was set a second time; the first object stays."""

    path: str = ""


class MissingObjectError(FsExchangeError, LookupError):
    """The object was evicted, so that waiting for it is in vain."""

    path: str = ""


class CorruptObjectError(FsExchangeError, ValueError):
    """What was read is not what was written: truncated, overwritten or foreign."""

    path: str = ""
    expected: int = -1
    """Bytes that should be there, or -1."""
    actual: int = -1
    """Bytes that are there, or -1."""


class SerializationError(FsExchangeError, TypeError):
    """The object cannot be turned into bytes, or the bytes into an object here."""


class StoreError(FsExchangeError, OSError):
    """The file system refused; `errno` is the operating system's."""

    path: str = ""


class StoreClosedError(StoreError):
    """The store is gone: its owner removed it, or this connector was closed."""


class UntrustedDirectoryError(StoreError, PermissionError):
    """The directory is a symlink, another user's, or writable by others."""


class WaitTimeoutError(FsExchangeError, TimeoutError):
    """What was waited for did not come in time."""

    path: str = ""
    timeout: float = 0.0
    """Seconds that were waited."""


class NotSharedError(FsExchangeError, OSError):
    """Some ranks do not see the directory that root made."""

    path: str = ""
    ranks: Mapping[int, str] = MappingProxyType({})
    """Rank to what it saw instead, with its host."""


class RemoteError(FsExchangeError, RuntimeError):
    """Another rank failed in its part of this call."""

    rank: int = -1
    host: str = ""
