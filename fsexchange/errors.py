"""Every error that fsexchange raises; each is also the builtin exception that it means.

The message says what happened, where, and what to do; the attributes say the same to a program.
Errors travel between ranks and pool workers, so pickling loses no part of them.
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
    """The key names no object that this store can hold; nothing was touched.

    >>> from fsexchange import FileKey
    >>> FileKey.parse("../x")
    Traceback (most recent call last):
    fsexchange.errors.InvalidKeyError: FileKey(filename='../x', nbytes=-1, offset=0): a key's ...
    """

    filename: str | None = None


class KeyExistsError(FsExchangeError, FileExistsError):
    """A write-once key or a future was set a second time, or a sealed array was written to.

    The object stays as it is.

    >>> from fsexchange import Store
    >>> with Store() as store:
    ...     future = store.future()
    ...     future.set_result(1)
    ...     future.set_result(2)
    Traceback (most recent call last):
    fsexchange.errors.KeyExistsError: ... is set already and stays as it is (write_once)
    """

    path: str = ""


class MissingObjectError(FsExchangeError, KeyError):
    """The object was evicted or never set, or nothing has this name.

    >>> from fsexchange import Store
    >>> with Store() as store:
    ...     store.get("mesh")
    Traceback (most recent call last):
    fsexchange.errors.MissingObjectError: nothing is named 'mesh' in the store at ...
    """

    path: str = ""

    __str__ = Exception.__str__  # KeyError's own shows the repr


class CorruptObjectError(FsExchangeError, ValueError):
    """The bytes read are not the bytes written: truncated, overwritten, or of another program.

    >>> from fsexchange.serialize import deserialize
    >>> deserialize(b"no such object")
    Traceback (most recent call last):
    fsexchange.errors.CorruptObjectError: not an fsexchange object: begins with b'no such ...
    """

    path: str = ""
    key: str = ""
    """The key of the object in its store, as text."""
    expected: int = -1
    """Bytes that should be there, or -1."""
    actual: int = -1
    """Bytes that are there, or -1."""


class SerializationError(FsExchangeError, TypeError):
    """The object cannot be turned into bytes, or the bytes into an object here.

    >>> import threading
    >>> from fsexchange import Store
    >>> with Store() as store:
    ...     store.put(threading.Lock())
    Traceback (most recent call last):
    fsexchange.errors.SerializationError: cannot serialize a _thread.lock: ...
    """

    key: str = ""
    """The key of the object in its store, as text, if it cannot be loaded."""


class StoreError(FsExchangeError, OSError):
    """The file system refused; `errno` is the operating system's.

    >>> from fsexchange import Store
    >>> Store("/proc/no-such")
    Traceback (most recent call last):
    fsexchange.errors.StoreError: cannot make the store's directory /proc/no-such (proc): ...
    """

    path: str = ""


class StoreClosedError(StoreError):
    """The store is gone: its owner, or something else, removed it; or this connector was closed.

    A wait without a time-out also ends with it, by `errno` EOWNERDEAD, when the owner of the store
    was killed; then the objects are still there.

    >>> from fsexchange import Store
    >>> with Store() as store:
    ...     key = store.put(1)
    >>> store.get(key)
    Traceback (most recent call last):
    fsexchange.errors.StoreClosedError: this connector to ... was closed; make another one
    """


class UntrustedDirectoryError(StoreError, PermissionError):
    """The directory is a symlink, another user's, or writable by others.

    >>> from fsexchange import Store
    >>> Store("/dev/shm")
    Traceback (most recent call last):
    fsexchange.errors.UntrustedDirectoryError: /dev/shm ...: whoever can put files there can ...
    """


class WaitTimeoutError(FsExchangeError, TimeoutError):
    """The object that a call waited for did not come in time.

    >>> from fsexchange import Store
    >>> with Store() as store:
    ...     store.future().result(timeout=0)
    Traceback (most recent call last):
    fsexchange.errors.WaitTimeoutError: ... was never set, or evicted again, within 0 s; ...
    """

    path: str = ""
    timeout: float = 0.0
    """How long the call waited, in seconds."""


class NotSharedError(FsExchangeError, OSError):
    """Some ranks do not see the directory that root made.

    >>> error = NotSharedError("1 of 4 ranks ...", path="/scratch", ranks={3: "hostb: ..."})
    >>> list(error.ranks)
    [3]
    """

    path: str = ""
    ranks: Mapping[int, str] = MappingProxyType({})
    """For each of these ranks its host, and what it saw instead."""


class RemoteError(FsExchangeError, RuntimeError):
    """Another rank or process failed in its part of this call; `cause` is the error it raised.

    >>> RemoteError("rank 3 (hostb) failed", rank=3, host="hostb", cause=KeyError(1)).cause
    KeyError(1)
    """

    rank: int = -1
    host: str = ""
    cause: BaseException | None = None
    """The error that the other raised; if it cannot be loaded here, a RemoteError with its text."""
    traceback: str = ""
    """The traceback of the other, as text."""

    def __init__(self, message: str, **attributes: Any) -> None:
        super().__init__(message, **attributes)
        if self.cause is not None:
            self.__cause__ = self.cause
        if self.traceback:
            shown = self if self.cause is None else self.cause
            shown.__cause__ = RemoteTraceback(self.traceback)


class MismatchError(FsExchangeError, RuntimeError):
    """Another rank is in another call: of another verb, of another root, one too many or too few.

    The ranks are out of step from here on: leave the Exchange.

    >>> raise MismatchError("rank 0 is in bcast, and rank 1 in gather", rank=1, host="hostb")
    Traceback (most recent call last):
    fsexchange.errors.MismatchError: rank 0 is in bcast, and rank 1 in gather
    """

    rank: int = -1
    host: str = ""


class RemoteTraceback(Exception):  # noqa: N818  (the standard library's pools have the same)
    """Where an exception was raised in another process, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'
