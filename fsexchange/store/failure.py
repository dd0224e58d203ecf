"""Failure: what a process passes on in the place of an object that it could not make."""

from __future__ import annotations

import traceback
from typing import Any

from fsexchange.errors import RemoteError, RemoteTraceback
from fsexchange.serialize import deserialize, dumps

# Characters of a traceback that are kept, its end.
_MOST_TEXT = 10_000


class Failure:
    """What a future holds instead of a result; whoever loads it gets the exception raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.traceback = "".join(traceback.format_exception(error))[-_MOST_TEXT:]

    @property
    def last_line(self) -> str:
        """What was raised, as a traceback ends: its type and what it says."""
        return "".join(traceback.format_exception_only(type(self.error), self.error)).strip()

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            data = dumps(self.error)
            deserialize(data)  # not every exception that can be pickled can be unpickled
        except Exception:
            data = dumps(RemoteError(self.last_line))
        return _load_failure, (data, self.traceback)

    def exception(self) -> BaseException:
        """Return the exception, with the traceback of where it was first raised as its cause."""
        self.error.__cause__ = RemoteTraceback(self.traceback)
        return self.error


def _load_failure(data: bytes, text: str) -> Failure:
    failure = Failure.__new__(Failure)
    failure.traceback = text
    try:
        failure.error = deserialize(data)
    except Exception:  # its class cannot be imported here; what it said still counts
        failure.error = RemoteError(text.rstrip().rpartition("\n")[2])
    return failure
