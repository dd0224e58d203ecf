"""Exchange: the ranks of a communicator hand each other objects, large ones through files.

Importing this module initialises MPI; `import fsexchange` alone never does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mpi4py import MPI

from fsexchange.mpi import blocks, packets
from fsexchange.mpi.keyexchange import KeyExchange
from fsexchange.mpi.mailbox import EAGER, Incoming
from fsexchange.mpi.message import (
    HEAD_SIZE,
    HOLD,
    KINDS,
    Message,
    Outgoing,
    Pieces,
    decode,
    encode,
    encode_each,
    failure,
    in_file,
    is_hold,
    named,
    spill,
)
from fsexchange.mpi.request import Request

if TYPE_CHECKING:
    import numpy.typing as npt

    from fsexchange.connector.keys import FileKey

_T = TypeVar("_T")

_INTERRUPTED: Pieces = [failure(InterruptedError("the sender was interrupted"))]

# Tag of the empty message by which a reader tells a writer that it has what it needs.
_ACK = 3


class Exchange(KeyExchange):
    """The ranks of a communicator, and a store they share to exchange objects of any size.

    Its verbs are mpi4py's lower-case ones: `ex.bcast(obj)` does what `comm.bcast(obj)` does. Small
    objects ride inside the messages. Of a large one the message names a file, which is written
    once and mapped by every rank, and is gone when the verb has returned on all ranks. `put`
    objects stay, and their keys travel by the key verbs.

    Use it in a `with` statement: making and leaving it is collective. When all ranks have come to
    its end, the root clears the store (if that is its to clear), and it is gone when they go on.

    Parameters
    ----------
    comm:
        Any intracommunicator; None: `MPI.COMM_WORLD`. Duplicates are used, so that no message
        mixes with yours.
    store_dir:
        Directory that all ranks see under the same path; the root's counts. None: the root's
        `$FSEXCHANGE_DIR`; else, if all ranks are on one host, a new directory in /dev/shm, or for
        temporary files where that has less than 1 GiB free.
    root:
        Rank that makes the directory, and clears it when all have closed.
    inline_limit:
        Bytes up to which an object rides inside its message; in `allgather` the objects of all
        ranks together, in `send` eight times as many. The root's counts.
    abort_timeout:
        Seconds that a rank leaving the `with` by an exception waits for the others to leave, too,
        before it clears the store, names the missing ranks and aborts the job.
    clear, markers, write_once, trust_directory:
        As for `FileConnector`.

    Attributes
    ----------
    comm, rank, size:
        A duplicate of the communicator, for you; this rank in it, and the number of ranks.
    hosts:
        The host name of each rank.
    store, put, get, evict, ref:
        This rank's `Store` in the directory, and its verbs. `store.connector` is `connector`.

    Raises
    ------
    NotSharedError
        Some ranks do not see the directory; `ranks` says which.
    StoreError
        The root cannot make it.
    ValueError
        Not an intracommunicator; no store_dir and several hosts; a wrong or disputed root.

    Notes
    -----
    A rank that fails in its part of a verb (an object that cannot be pickled, a full disk) raises
    its own error; whoever waits for its data raises `RemoteError`, which has that error, its rank
    and host; the others go on, and the Exchange stays usable. It is for one thread at a time.

    >>> import numpy as np
    >>> with Exchange(MPI.COMM_SELF) as ex:
    ...     ex.bcast({"any": "object"}), ex.allgather(np.arange(3)), ex.get(ex.put("stays"))
    ({'any': 'object'}, [array([0, 1, 2])], 'stays')
    """

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._check()
        self._comm.Barrier()

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """Return the root's object on every rank, a copy on the root as well."""
        self._check(root=root)
        return self._bcast(encode(obj) if self.rank == root else None, root, self.inline_limit)

    def gather(self, sendobj: Any, root: int = 0) -> list[Any] | None:
        """Return the objects of all ranks, in their order, on the root; None on the others."""
        self._check(root=root)
        sent = spill(self.connector, encode(sendobj), self.inline_limit)
        messages = packets.gather(self._control, sent.messages[0], root)
        objs, error = None, sent.error
        try:
            objs = None if messages is None else self._load(enumerate(messages), last=True)
        except Exception as caught:
            error = caught if error is None else error
        if error is not None:
            raise error
        return objs

    def allgather(self, sendobj: Any) -> list[Any]:
        """Return the objects of all ranks, in their order, on every rank."""
        self._check()
        # Of each message every rank gets a copy, of a file every node.
        limit = self.inline_limit // self.size
        return self._allgather(spill(self.connector, encode(sendobj), limit))

    def scatter(self, sendobj: Sequence[Any] | None, root: int = 0) -> Any:
        """Return this rank's of the root's objects, one for each rank.

        `ValueError` on a root with more or fewer, and `RemoteError` on the others.
        """
        self._check(root=root)
        sent = encode_each(sendobj, self.size, "scatter") if self.rank == root else None
        sent, message = self._from_root(packets.scatter, sent, root, self.inline_limit)
        return self._take(sent, [(root, message)], sent.readers if sent else ())[0]

    def alltoall(self, sendobj: Sequence[Any]) -> list[Any]:
        """Return the objects for this rank of all ranks, in their order; each has one for each.

        `ValueError` on a rank with more or fewer, and `RemoteError` on the others.
        """
        self._check()
        sent = encode_each(sendobj, self.size, "alltoall")
        sent = spill(self.connector, sent, self.inline_limit)
        messages = packets.alltoall(self._control, sent.messages)
        return self._take(sent, enumerate(messages), sent.readers)

    def send(self, obj: Any, dest: int, tag: int = 0) -> None:
        """Send an object to one rank; never waits for the receiver, whatever the size.

        Between 4 KB and eight times `inline_limit` it rides in the message, straight from `obj`, if
        the receiver is there within a millisecond; else, and above, it goes through a file.
        """
        self._check(dest=dest)
        if dest == MPI.PROC_NULL:
            return
        sent = self._encode_for_one(obj, 8 * self.inline_limit)
        mailbox = self._mailbox
        if sent.error is not None:
            mailbox.post(sent.messages[0], dest, tag)
            raise sent.error
        offer = self._hand_over(mailbox.offer, sent, dest, tag)
        if offer is None:
            return
        awaited = False
        try:
            awaited = mailbox.is_awaited(offer)
            if not awaited:
                sent = spill(self.connector, sent, 0)
        except BaseException:  # Ctrl-C: what was offered must come
            sent = Outgoing([_INTERRUPTED])
            raise
        finally:
            if awaited:
                mailbox.follow(offer)
            else:
                mailbox.replace(offer, sent.messages[0])
        if sent.error is not None:
            raise sent.error

    def isend(self, obj: Any, dest: int, tag: int = 0) -> Request:
        """Send an object; what is large is written to its file before this returns.

        `obj` may be changed at once. The request need not be waited for; `wait` returns when the
        message is delivered, as MPI does it only while this rank is in some call.
        """
        self._check(dest=dest)
        if dest == MPI.PROC_NULL:
            return Request([])
        sent = self._encode_for_one(obj, self.inline_limit)
        requests = self._hand_over(self._mailbox.post, sent, dest, tag)
        if sent.error is not None:
            raise sent.error
        return Request(requests)

    def recv(
        self,
        buf: Any = None,
        source: int = MPI.ANY_SOURCE,
        tag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> Any:
        """Wait for an object that another rank sends, and return it; `buf` is ignored."""
        self._check()
        status = MPI.Status() if status is None else status
        message = self._mailbox.receive(source, tag, status)
        return None if message is None else self._received(message, status.source)

    def irecv(
        self, buf: Any = None, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG
    ) -> Request:
        """Return a request for an object that another rank sends; `buf` is ignored."""
        self._check()
        return Request(Incoming(self._mailbox, source, tag), self._received)

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
        """Send an object to one rank and return one that another sends; `recvbuf` is ignored."""
        self._check(dest=dest)
        if dest == MPI.PROC_NULL:
            return self.recv(recvbuf, source, recvtag, status)
        sent = self._encode_for_one(sendobj, self.inline_limit)
        requests = self._hand_over(self._mailbox.post, sent, dest, sendtag)
        try:
            obj = self.recv(recvbuf, source, recvtag, status)
        except Exception:
            if sent.error is None:
                raise
        if sent.error is not None:
            raise sent.error
        MPI.Request.Waitall(requests)  # else it might wait for this rank's next call of MPI
        return obj

    def assemble(
        self,
        block: npt.ArrayLike,
        axis: int = 0,
        *,
        offset: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
    ) -> npt.NDArray[Any]:
        """Return the array that the blocks of all ranks make, on every rank, mapped by all.

        Every rank writes its block into its place of one file: a node holds one copy, however
        many ranks it has. See `put_blocks` for blocks, places and errors.

        >>> import numpy as np
        >>> with Exchange(MPI.COMM_SELF) as ex:
        ...     ex.assemble(np.ones((2, 3))).shape
        (2, 3)
        """
        key = self.put_blocks(block, axis, offset=offset, shape=shape)
        mine = self.rank == self.root
        sent = Outgoing([], key) if mine else None
        array: npt.NDArray[Any] = self._take(sent, [(self.root, named(key))], range(self.size))[0]
        return array

    def put_blocks(
        self,
        block: npt.ArrayLike,
        axis: int = 0,
        *,
        offset: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
    ) -> FileKey:
        """Write the array that the blocks of all ranks make, and return its key on every rank.

        `get(key)[a:b]` reads no pages but those, where the file system can map. The file is a
        valid `.npy`, in Fortran order if all blocks are. It stays until it is evicted.

        Parameters
        ----------
        block:
            This rank's part: of the same dtype and number of dimensions everywhere, and without
            `offset` of the same lengths but along `axis`, where it may be 0. Not of objects.
        axis:
            Along which the blocks follow one another in the order of ranks.
        offset, shape:
            Where this block begins in the whole array, and the shape of that: for decompositions
            along several axes. The blocks of all ranks must fill it, each element once.

        Raises
        ------
        ValueError
            The blocks do not fit together; the same on all ranks.
        TypeError, ValueError
            This rank's block is no such part; `RemoteError` on the others.
        RemoteError
            Another rank could not write its block, and nothing is left of the others.
        """
        self._check()
        described = self._attempt(lambda: blocks.describe(block, axis, offset, shape))
        plan = blocks.plan(self._allgather(described))
        slabs = blocks.slabs(plan)
        failed: Exception | None = None
        if slabs is not None:
            try:
                pieces = self.alltoall(blocks.cut(block, self.rank, plan, slabs))
                block = blocks.merge(pieces, self.rank, plan, slabs)
            except Exception as error:  # the others go on, and hear of it at the end
                failed = error
            plan = slabs
        made: list[FileKey] = []

        def create() -> FileKey:
            made.append(blocks.create(self.connector, plan))
            return made[0]

        def write() -> None:
            if failed is not None:
                raise failed
            blocks.write(self.connector, key, plan, self.rank, block)

        try:
            offer = self._attempt(create) if self.rank == self.root else None
            key: FileKey = self._bcast(offer, self.root, sys.maxsize)
            self._allgather(self._attempt(write))
        except BaseException:
            for lost in made:
                self.connector.evict(lost)
            raise
        return key

    # ---- how ------------------------------------------------------------------------------------

    def _received(self, message: Message, source: int) -> Any:
        """Return the object of a message to this rank alone."""
        host = self.hosts[source]
        if len(message) < HEAD_SIZE or message[0] not in KINDS:
            raise ValueError(
                f"what rank {source} ({host}) sent is no object; receive what was sent by "
                "send_key by recv_key"
            )
        return decode(self.connector, message, source, host, last=True)

    def _encode_for_one(self, obj: Any, inline_limit: int) -> Outgoing:
        if self._mailbox.crowded:
            inline_limit = min(inline_limit, EAGER - HEAD_SIZE)
        return spill(self.connector, encode(obj), inline_limit)

    def _hand_over(
        self, way: Callable[[Pieces, int, int], _T], sent: Outgoing, dest: int, tag: int
    ) -> _T:
        """Send in one of the mailbox's ways; remove what MPI does not take: for its tag, say."""
        try:
            return way(sent.messages[0], dest, tag)
        except BaseException:
            if sent.key is not None:
                self.connector.evict(sent.key)
            raise

    def _attempt(self, function: Callable[[], Any]) -> Outgoing:
        """Return a message of what `function` returns, or of what it raises."""
        try:
            obj = function()
        except Exception as error:  # whatever it is, others wait for a message
            return Outgoing([[failure(error)]], error=error)
        # Always in the message: a rank that could not read it from a file would be out of step.
        return encode(obj)

    def _bcast(self, sent: Outgoing | None, root: int, inline_limit: int) -> Any:
        sent, message = self._from_root(packets.bcast, sent, root, inline_limit)
        return self._take(sent, [(root, message)], range(self.size))[0]

    def _from_root(
        self,
        move: Callable[[MPI.Intracomm, Sequence[Pieces] | None, int], Message],
        sent: Outgoing | None,
        root: int,
        inline_limit: int,
    ) -> tuple[Outgoing | None, Message]:
        """Return what the root sends at last, and the message that this rank gets of it."""
        comm = self._control
        if sent is not None and sent.longest > inline_limit:
            everyone = len(sent.messages)
            move(comm, [HOLD] * everyone, root)
            try:
                sent = spill(self.connector, sent, inline_limit)
            except BaseException:  # Ctrl-C: what was promised must come
                packets.wake(comm)
                move(comm, [_INTERRUPTED] * everyone, root)
                raise
            packets.wake(comm)
        message = move(comm, None if sent is None else sent.messages, root)
        if is_hold(message):
            packets.doze(comm, root)
            message = move(comm, None, root)
        return sent, message

    def _allgather(self, sent: Outgoing) -> list[Any]:
        messages = packets.allgather(self._control, sent.messages[0])
        return self._take(sent, enumerate(messages), range(self.size))

    def _take(
        self,
        sent: Outgoing | None,
        received: Iterable[tuple[int, Message]],
        readers: Iterable[int],
    ) -> list[Any]:
        """Return what other ranks sent, and remove this rank's own file once its readers have it.

        A reader says so by an empty message, which needs neither side to wait for the other: a
        barrier would end only when every rank is in MPI again.
        """
        received = list(received)
        try:
            if sent is not None and sent.error is not None:
                raise sent.error
            return self._load(received, last=False)
        finally:
            for rank, message in received:
                if rank != self.rank and in_file(message):
                    self._control.Send(b"", rank, _ACK)
            if sent is not None and sent.key is not None:
                for rank in readers:
                    if rank != self.rank:
                        self._control.Recv(bytearray(), rank, _ACK)
                self.connector.evict(sent.key)

    def _load(self, received: Iterable[tuple[int, Message]], *, last: bool) -> list[Any]:
        """Return the objects of all messages; the first error only after all were looked at."""
        objs = []
        error: Exception | None = None
        for rank, message in received:
            try:
                objs.append(decode(self.connector, message, rank, self.hosts[rank], last=last))
            except Exception as caught:
                error = caught if error is None else error
        if error is not None:
            raise error
        return objs


#: The same under the name of what it does.
connect = Exchange
