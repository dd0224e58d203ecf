"""PointToPoint: objects that one rank sends to another.

How a message travels: the sender pickles the object, and MPI delivers the pickle as one message on
the Exchange's own communicator, under the user's tag. mpi4py's own `recv`, requests and probes take
it on the other side. So order, wildcards, cancelling and statuses are MPI's, and nothing is matched
here. The message has at most 4000 bytes, with MPICH 7000, which MPI takes from its sender at once.
A larger object is replaced by a placeholder that says where its buffers lie (`bodies`): loading it,
which mpi4py does as it returns the object, fetches them. So no `send` needs its receiver, and no
request of a send waits for anybody. Only if very much waits already, a `send` becomes an `ssend`.

MPICH up to 5.0 can lose messages for which a receive from any source is posted already, if some
ranks are on this host and some on others (ch4:ucx; mpich#7203 and #7702 are alike). That is so for
mpi4py's `irecv`, too. `recv` posts none, but probes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from itertools import starmap
from typing import Any

from mpi4py import MPI

from fsexchange.mpi.bodies import Bodies, Placed
from fsexchange.mpi.communicator import Communicator
from fsexchange.mpi.limits import EAGER
from fsexchange.mpi.membership import ArgumentError, Membership
from fsexchange.mpi.slab import REQUESTS
from fsexchange.serialize.simple import is_simple, simple_pickle

_Send, _Ssend, _Bsend = MPI.Intracomm.Send, MPI.Intracomm.Ssend, MPI.Intracomm.Bsend
_Isend, _Issend, _Ibsend = MPI.Intracomm.Isend, MPI.Intracomm.Issend, MPI.Intracomm.Ibsend
_isend, _recv, _irecv = MPI.Intracomm.isend, MPI.Intracomm.recv, MPI.Intracomm.irecv

_NOBODY = MPI.PROC_NULL

# Wrong arguments, as MPI classes them.
_WRONG = (MPI.ERR_RANK, MPI.ERR_TAG, MPI.ERR_ROOT)


# Requests that a program has dropped before they were done, and how many of them are looked at
# when the next one is made. Not where they are dropped: MPI may have ended by then.
_dropped: deque[MPI.Request] = deque()
_LOOKED_AT = 2


class _Receiving(MPI.Request):
    """A request of `irecv`, whose memory stays as long as MPI may write to it.

    mpi4py's own frees it when the program drops the request. A message that then comes is written
    into what is something else by now.
    """

    def __del__(self) -> None:
        if self:
            _dropped.append(MPI.Request(self))


class PointToPoint(Communicator):
    """The verbs between two ranks.

    A send that raises has sent nothing, unless a signal's handler raises: then its object may
    arrive, whole, or its receiver raises `RemoteError`, if that was while a large body was copied.
    A receive in which a handler raises has lost its object, as mpi4py's has, but the sender has its
    memory back. A handler may send, but not wait for its receiver, which may wait for what it has
    interrupted.

    A send of a large object waits a moment if its receiver is not in `recv` yet, at most 8 ms for
    64 MiB: a receiver that comes in time saves several times that.

    Probes are mpi4py's own: they see every message, and `status.Get_count()` is then the length of
    the message, not of the object.
    """

    _bodies: Bodies

    def _join(self, members: Membership) -> None:
        super()._join(members)
        self._check = members.check
        self._encode = members.codec.encode
        self._bodies = members.bodies
        self._receiving, self._busy = members.bodies.receiving, members.bodies.busy
        self._rank = members.rank
        self._ranks_above = members.ranks_above
        # Sends that MPI has not taken yet, each alone in a list, which keep their memory: a program
        # may drop a request.
        self._underway: dict[int, list[MPI.Request]] = {}
        self._numbers = itertools.count()
        self._look_again_at = 64

    def send(self, obj: Any, dest: int, tag: int = 0) -> None:
        """Send an object to one rank.

        It does not wait for the receiver, whatever the size, unless more than 256 MiB wait for
        receivers in memory and files of this rank; then it returns when this message is matched.
        MPI itself has room for so many messages to a rank that does not call it: MPICH for 64.
        """
        if dest == self._rank:  # MPI may wait for the receiver, which is this rank
            self.isend(obj, dest, tag)
            return
        body = simple_pickle(obj, EAGER)
        if body is None:
            self._post(_Send, obj, dest, tag)
            return
        try:  # the shortest way
            _Send(self, body, dest, tag)
        except MPI.Exception as error:
            raise self._error(error, dest=dest, tag=tag) from None

    def ssend(self, obj: Any, dest: int, tag: int = 0) -> None:
        """Send an object, and wait until its receiver has begun to receive it."""
        self._post(_Ssend, obj, dest, tag)

    def bsend(self, obj: Any, dest: int, tag: int = 0) -> None:
        """Send an object by the buffer that the user has attached; a large one needs little."""
        self._post(_Bsend, obj, dest, tag)

    def isend(self, obj: Any, dest: int, tag: int = 0) -> MPI.Request:
        """Send an object, which you may change at once; the request waits for nobody."""
        return self._posted(_Isend, obj, dest, tag)

    def issend(self, obj: Any, dest: int, tag: int = 0) -> MPI.Request:
        """Send an object; the request is done when its receiver has begun to receive it."""
        return self._posted(_Issend, obj, dest, tag)

    def ibsend(self, obj: Any, dest: int, tag: int = 0) -> MPI.Request:
        """Send an object by the buffer that the user has attached."""
        return self._posted(_Ibsend, obj, dest, tag)

    def recv(
        self,
        buf: Any = None,
        source: int = MPI.ANY_SOURCE,
        tag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> Any:
        """Wait for an object that another rank sends, and return it; `buf` is best left out."""
        if not self:  # closed; Open MPI ends the job for a probe on no communicator
            self._check()
        receiving = self._receiving
        try:
            self._busy[0] = 0
            receiving[0] = 1
            if status is None:
                return _recv(self, buf, source, tag)
            arrived = self._bodies.arrived
            arrived.nbytes = 0
            obj = _recv(self, buf, source, tag, status)
            if arrived.nbytes:
                status.Set_elements(MPI.BYTE, arrived.nbytes)
            return obj
        except MPI.Exception as error:
            raise self._error(error, source=source, tag=tag) from None
        finally:
            receiving[0] = 0

    def irecv(
        self, buf: Any = None, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG
    ) -> MPI.Request:
        """Return a request for an object that another rank sends; `buf` is best left out."""
        self._busy[0] = REQUESTS
        for _ in range(min(_LOOKED_AT, len(_dropped))):
            request = _dropped.popleft()
            if not request.Test():
                _dropped.append(request)
        try:
            return _Receiving(_irecv(self, buf, source, tag))
        except MPI.Exception as error:
            raise self._error(error, source=source, tag=tag) from None

    def sendrecv(
        self,
        sendobj: Any,
        dest: int,
        sendtag: int = 0,
        recvbuf: Any = None,
        source: int = MPI.ANY_SOURCE,
        recvtag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> Any:
        """Send an object to one rank and return one that another sends."""
        # By `starmap`, so that no signal's handler raises before the request is known here. What
        # another thread changes now is sent as mpi4py sends it.
        if not is_simple(sendobj, EAGER):
            (request,) = starmap(self._post, ((_Isend, sendobj, dest, sendtag),))
        else:
            try:  # the shortest way
                (request,) = starmap(_isend, ((self, sendobj, dest, sendtag),))
            except MPI.Exception as error:
                raise self._error(error, dest=dest, sendtag=sendtag) from None
        try:
            obj = self.recv(recvbuf, source, recvtag, status)
        except BaseException:  # MPI may still need the memory
            self._keep(request)
            raise
        request.Wait()
        return obj

    def _post(self, post: Callable[..., Any], obj: Any, dest: int, tag: int) -> Any:
        """Give MPI the message of an object."""
        body, buffers = (b"", ()) if dest == _NOBODY else self._encode(obj)
        if not buffers and len(body) <= EAGER:
            try:
                (request,) = starmap(post, ((self, body, dest, tag),))  # as in `sendrecv`
            except MPI.Exception as error:
                raise self._error(error, dest=dest, tag=tag) from None
            return request
        placed, request, is_out = Placed(), None, False
        try:
            self._check(dest=dest)
            if post is _Send and self._bodies.is_crowded():
                post = _Ssend
            self._bodies.place(placed, body, buffers, self._ranks_above[dest])
            (request,) = starmap(post, ((self, placed.placeholder, dest, tag),))
            is_out = True  # no signal's handler runs between the two
            placed.finish()
        except BaseException as error:
            if request is not None:
                self._keep(request)
            if not is_out:
                placed.withdraw()
            else:  # else its receiver waits for ever, or gets the next body
                placed.finish()
            if isinstance(error, MPI.Exception):
                raise self._error(error, dest=dest, tag=tag) from None
            raise
        return request

    def _posted(self, post: Callable[..., Any], obj: Any, dest: int, tag: int) -> MPI.Request:
        """Give MPI the message of an object, and keep the request until it is done."""
        underway = self._underway
        number = next(self._numbers)
        posted = underway[number] = []
        try:
            posted.extend(starmap(self._post, ((post, obj, dest, tag),)))
        except BaseException:
            if not posted:  # else a signal's handler has raised
                underway.pop(number, None)
            raise
        (request,) = posted
        if request.Get_status():
            underway.pop(number, None)
        elif len(underway) >= self._look_again_at:
            self._let_go()
        return request

    def _keep(self, request: MPI.Request) -> None:
        self._underway[next(self._numbers)] = [request]
        if len(self._underway) >= self._look_again_at:
            self._let_go()

    def _let_go(self) -> None:
        """Let go of the requests that are done."""
        # By their keys: other threads do the same, and a signal's handler may raise.
        for number, each in tuple(self._underway.items()):
            if each and (not each[0] or each[0].Get_status()):
                self._underway.pop(number, None)
        self._look_again_at = 2 * len(self._underway) + 64

    def _error(self, error: MPI.Exception, **said: int) -> Exception:
        """Return the error of a verb that MPI refused."""
        self._check()
        code = error.Get_error_class()
        if code not in _WRONG or isinstance(error, ArgumentError):
            return error
        arguments = ", ".join(f"{name}={value}" for name, value in said.items())
        return ArgumentError(code, f"{error}: {arguments}; there are {self.size} ranks")
