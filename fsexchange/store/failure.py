"""Failure: an error that a process passes on in place of an object that it could not make."""

from __future__ import annotations

import traceback
from typing import Any

from fsexchange.errors import RemoteError, RemoteTraceback
from fsexchange.serialize import deserialize, dumps

# Characters kept from the end of a traceback.
_MOST_TEXT = 10_000


class Failure:
    """An exception and its traceback as text; `Store.get` raises the exception."""

    def __init__(self, error: BaseException) -> None:
        if not isinstance(error, BaseException):
            raise TypeError(f"not an exception: {error!r}")
        self.error = error
        self.traceback = "".join(traceback.format_exception(error))[-_MOST_TEXT:]

    @property
    def last_line(self) -> str:
        """The type and message of the exception, as in the last line of a traceback."""
        return "".join(traceback.format_exception_only(type(self.error), self.error)).strip()

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            data = dumps(self.error)
            _load_error(data)  # some exceptions can be pickled but not unpickled
        except Exception:
            data = dumps(RemoteError(self.last_line))
        return _load_failure, (data, self.traceback)

    def exception(self) -> BaseException:
        """Return the exception; its cause shows the traceback from where it was first raised."""
        self.error.__cause__ = RemoteTraceback(self.traceback)
        return self.error


def _load_failure(data: bytes, text: str) -> Failure:
    failure = Failure.__new__(Failure)
    failure.traceback = text
    try:
        failure.error = _load_error(data)
    except Exception:  # its class cannot be imported here, but its message can be shown
        failure.error = RemoteError(text.rstrip().rpartition("\n")[2])
    return failure


def _load_error(data: bytes) -> BaseException:
    error = deserialize(data)
    if not isinstance(error, BaseException):  # its `__reduce__` decides what it becomes
        raise TypeError(f"not an exception: {error!r}")
    return error
