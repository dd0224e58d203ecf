"""Request: a send or receive under way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mpi4py import MPI

from fsexchange.mpi.mailbox import Incoming
from fsexchange.mpi.message import Message


class Request:
    """A send or receive under way; made by `Exchange.isend` and `irecv`.

    >>> from fsexchange.mpi import Exchange
    >>> with Exchange(MPI.COMM_SELF) as ex:
    ...     request = ex.irecv(source=0)
    ...     ex.isend("to myself", dest=0).wait()
    ...     request.wait()
    'to myself'
    """

    def __init__(
        self,
        under_way: Incoming | list[MPI.Request],
        load: Callable[[Message, int], Any] | None = None,
    ) -> None:
        self._under_way: Incoming | list[MPI.Request] = under_way
        self._load = load

    def wait(self, status: MPI.Status | None = None) -> Any:
        """Wait until it is done; return the object of a receive, None for a send."""
        return self._end(status, wait=True)[1]

    def test(self, status: MPI.Status | None = None) -> tuple[bool, Any]:
        """Return True and what `wait` returns if it is done, else False and None."""
        return self._end(status, wait=False)

    @staticmethod
    def waitall(requests: Iterable[Request]) -> list[Any]:
        """Wait for all requests; return what their `wait` returns, or raise the first error."""
        objs = []
        errors = []
        for request in requests:
            try:
                objs.append(request.wait())
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return objs

    def _end(self, status: MPI.Status | None, *, wait: bool) -> tuple[bool, Any]:
        under_way = self._under_way
        if isinstance(under_way, list):
            if wait:
                MPI.Request.Waitall(under_way)
            return MPI.Request.Testall(under_way), None
        if not under_way.has_come(wait=wait):
            return False, None
        if status is not None:
            status.source, status.tag = under_way.status.source, under_way.status.tag
        self._under_way = []  # a second wait returns None, as mpi4py's
        message = under_way.message
        if message is None or self._load is None:
            return True, None
        return True, self._load(message, under_way.status.source)
