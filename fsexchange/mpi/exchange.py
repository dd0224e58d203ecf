"""Exchange: the ranks of a communicator hand each other objects of any size."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from mpi4py import MPI

from fsexchange.connector.keys import FileKey, checked
from fsexchange.errors import InvalidKeyError
from fsexchange.mpi import assembly, blocks
from fsexchange.mpi.collectives import Collectives
from fsexchange.mpi.limits import INLINE_LIMIT
from fsexchange.mpi.membership import Membership
from fsexchange.mpi.pointtopoint import PointToPoint
from fsexchange.mpi.reductions import Reductions
from fsexchange.store.store import Store

if TYPE_CHECKING:
    import numpy.typing as npt

_Op: TypeAlias = "MPI.Op | Callable[[Any, Any], Any]"


class Exchange(PointToPoint):
    """A communicator whose ranks share a store, to exchange objects of any size.

    It is a duplicate of the one it is made of. Its lower-case verbs do what mpi4py's do:
    `ex.bcast(obj)` is `comm.bcast(obj)`, and upper-case ones are mpi4py's own. Small objects travel
    inside messages. A large one is written once to memory that the ranks of a host share, and
    passed on to other hosts by MPI: each host has one copy, and every rank an array of its own,
    whose pages are copied when it writes to them. Objects that were `put` stay; their keys travel
    by the key verbs, which check them, or like any other object. `Dup`, `Split` and the like return
    an Exchange over the same store, which ends with the first.

    Use it in a `with` statement; all ranks enter and leave together. When all have reached the
    end, the root clears the store if it owns it, and then the ranks go on. The end of the
    interpreter does the same for an Exchange that nobody has closed.

    Parameters
    ----------
    comm:
        Any intracommunicator; None: `MPI.COMM_WORLD`. Messages on it do not mix with those on the
        Exchange.
    store_dir:
        Directory that all ranks see under the same path; the root's value counts. None: the store
        at the root's `$FSEXCHANGE_STORE`; else a new directory in its `$FSEXCHANGE_DIR`; else, if
        all ranks are on one host, one in /dev/shm, or, if that has less than 1 GiB free, in the
        directory for temporary files.
    root:
        Rank that makes the directory, and clears it when all ranks have closed.
    inline_limit:
        An object travels in messages as long as its copies on a host take at most this many bytes
        together: 32 MiB for 2 ranks, 1 MiB for 64. A larger one goes by memory that the ranks of a
        host share, of which it needs one copy. In `allgather` the objects of all ranks count
        together; `assemble` from 1 MiB on and `allreduce` from 4 MiB go by such memory anyway. In
        `send` the limit holds between hosts, and larger ones go by a file; ranks of one host send
        through memory that they share. The root's value counts.
    abort_timeout:
        Seconds for which a rank that leaves the `with` by an exception, other than `sys.exit(0)`,
        waits for the others to leave. If some do not, it clears the stores that it owns or shares
        by an Exchange, names the missing ranks and aborts the job. After Ctrl-C at most 1 s. A rank
        that leaves normally says after this time who is missing, and waits on. What a signal's
        handler raises inside a verb should leave the `with`: a rank that catches it and goes on may
        be out of step with the others.
    host_cache:
        Where files cannot be mapped (NFS, GlusterFS, sshfs, unknown kinds), an object of 1 MiB or
        more that ranks of a host `get` is read once into the memory of that host, /dev/shm, and
        mapped by all. At most so many bytes of such copies are kept, the most recently used ones,
        until the Exchange is closed; 0 keeps none. None: a quarter of what /dev/shm has free. Each
        rank's own value counts.
    clear, markers, write_once, trust_directory:
        As for `FileConnector`.

    Attributes
    ----------
    hosts:
        The host name of each rank.
    store, put, get, evict, ref:
        This rank's `Store` in the directory, and its verbs. `store.connector` is `connector`.

    Raises
    ------
    NotSharedError
        Some ranks do not see the directory; the attribute `ranks` says which.
    StoreError
        The root cannot make it.
    ValueError
        Not an intracommunicator; no store_dir and several hosts; a root that is no rank, or
        different roots.

    Notes
    -----
    Memory that ranks share has no name, needs no /dev/shm, and ends with its last array: whoever
    keeps one large object of a call keeps the memory of all on its host; a copy does not. What the
    last call took, if it is at most 256 MiB and a 32nd of what the host has free, is kept by the
    first rank of the host until the Exchange is closed: the next call uses it again if no process
    has any of it any more. Where the memory of a host, or of a control group, does not suffice, all
    ranks take a file of the store instead, of which the library warns once by `logging`, and where
    that has no space, MPI.

    A rank that fails in its part of a collective (an object that cannot be pickled, a full disk)
    raises its own error. Every rank that waits for its data raises `RemoteError`, which has that
    error, its rank and host. The others go on, and the Exchange stays usable. A send to one rank
    that raises has sent nothing.

    Several threads may send and receive at the same time if MPI allows it (`MPI_THREAD_MULTIPLE`,
    mpi4py's default). Only one thread at a time may use collectives, as with mpi4py.

    >>> import numpy as np
    >>> with Exchange(MPI.COMM_SELF) as ex:
    ...     ex.bcast({"any": "object"}), ex.allgather(np.arange(3)), ex.get(ex.put("stays"))
    ({'any': 'object'}, [array([0, 1, 2])], 'stays')
    """

    def __init__(
        self,
        comm: MPI.Comm | None = None,
        store_dir: str | os.PathLike[str] | None = None,
        *,
        root: int = 0,
        inline_limit: int = INLINE_LIMIT,
        abort_timeout: float = 30.0,
        host_cache: int | None = None,
        clear: bool = True,
        markers: bool = False,
        write_once: bool = False,
        trust_directory: bool = False,
    ) -> None:
        members = Membership(
            self,
            store_dir,
            root=root,
            inline_limit=inline_limit,
            abort_timeout=abort_timeout,
            host_cache=host_cache,
            options={
                "clear": clear,
                "markers": markers,
                "write_once": write_once,
                "trust_directory": trust_directory,
            },
        )
        self._join(members)
        members.leave_at_exit()

    def _join(self, members: Membership) -> None:
        super()._join(members)
        self.connector = members.connector
        self.store = Store(self.connector)
        self.root = members.root
        self.hosts = members.hosts.names
        self.put = self.store.put
        self.get = self.store.get
        self.evict = self.store.evict
        self.ref = self.store.ref
        self._collectives = Collectives(
            members.internal,
            members.codec,
            members.hosts,
            members.rooms,
            members.bodies,
            members.ranks_above,
            members.inline_limit,
        )
        self._reductions = Reductions(self._collectives)

    def __repr__(self) -> str:
        members = self._members
        return f"{type(self).__name__}(rank {members.rank} of {members.size}, {self.connector!r})"

    # ---- objects, all ranks ---------------------------------------------------------------------

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._check()
        self._collectives.barrier()

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """Return the root's object on every rank, a copy on the root as well."""
        self._check(root=root)
        return self._collectives.bcast(obj, root)

    def gather(self, sendobj: Any, root: int = 0) -> list[Any] | None:
        """Return the objects of all ranks, in their order, on the root; None on the others."""
        self._check(root=root)
        return self._collectives.gather(sendobj, root)

    def allgather(self, sendobj: Any) -> list[Any]:
        """Return the objects of all ranks, in their order, on every rank."""
        self._check()
        return self._collectives.allgather(sendobj)

    def scatter(self, sendobj: Sequence[Any] | None, root: int = 0) -> Any:
        """Return the object that the root has for this rank; the root passes one for each rank.

        `ValueError` on a root with more or fewer, and `RemoteError` on the others.
        """
        self._check(root=root)
        return self._collectives.scatter(sendobj, root)

    def alltoall(self, sendobj: Sequence[Any]) -> list[Any]:
        """Return the objects that all ranks have for this one; each passes one for each rank.

        `ValueError` on a rank with more or fewer, and `RemoteError` on the others.
        """
        self._check()
        return self._collectives.alltoall(sendobj)

    def reduce(self, sendobj: Any, op: _Op = MPI.SUM, root: int = 0) -> Any:
        """Return `op` over the objects of all ranks, in their order, on the root; None elsewhere.

        `op` is an operation of MPI or a function of two objects. It is called on the root, as a
        tree: (a + b) + (c + d). Large arrays of one numeric type and shape, with MPI's sum, product
        or bitwise operations, are reduced by MPI, which may add floats in another order.
        """
        self._check(root=root)
        return self._reductions.reduce(sendobj, op, root)

    def allreduce(self, sendobj: Any, op: _Op = MPI.SUM) -> Any:
        """Return on every rank what `reduce` returns on the root; `op` is called on all of them."""
        self._check()
        return self._reductions.allreduce(sendobj, op)

    def scan(self, sendobj: Any, op: _Op = MPI.SUM) -> Any:
        """Return `op` over the objects of the ranks up to this one, in their order."""
        self._check()
        return self._reductions.scan(sendobj, op)

    def exscan(self, sendobj: Any, op: _Op = MPI.SUM) -> Any:
        """Return `op` over the objects of the ranks before this one; None on rank 0."""
        self._check()
        return self._reductions.scan(sendobj, op, without_own=True)

    # ---- keys -----------------------------------------------------------------------------------
    # A key travels like any small object. These verbs also refuse what is not a key: by
    # `InvalidKeyError` on the rank that passes it, by `RemoteError` on the ranks that wait for it.

    def bcast_key(self, key: FileKey | None = None, root: int = 0) -> FileKey | None:
        """Return the root's key on every rank; the `key` of the others is ignored."""
        self._check(root=root)
        return _as_key(self._collectives.bcast(key, root, _as_key))

    def gather_keys(self, key: FileKey | None, root: int = 0) -> list[FileKey | None] | None:
        """Return the keys of all ranks, in their order, on the root; None on the others."""
        self._check(root=root)
        keys = self._collectives.gather(key, root, _as_key)
        return None if keys is None else list(map(_as_key, keys))

    def allgather_keys(self, key: FileKey | None) -> list[FileKey | None]:
        """Return the keys of all ranks, in their order, on every rank."""
        self._check()
        return list(map(_as_key, self._collectives.allgather(key, _as_key)))

    def scatter_keys(
        self, keys: Sequence[FileKey | None] | None = None, root: int = 0
    ) -> FileKey | None:
        """Return the key that the root has for this rank; the root passes one for each rank.

        The `keys` of the others are ignored. Without `keys` on the root, every rank gets None.
        """
        self._check(root=root)
        return _as_key(self._collectives.scatter(keys, root, _as_key))

    def alltoall_keys(self, keys: Sequence[FileKey | None]) -> list[FileKey | None]:
        """Return the keys that all ranks have for this one; each passes one for each rank."""
        self._check()
        return list(map(_as_key, self._collectives.alltoall(keys, _as_key)))

    def send_key(self, key: FileKey | None, dest: int, tag: int = 0) -> None:
        """Send a key to one rank; never waits for the receiver."""
        self.isend(_as_key(key), dest, tag)

    def recv_key(
        self,
        source: int = MPI.ANY_SOURCE,
        tag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> FileKey | None:
        """Wait for a key that another rank sends, and return it."""
        status = MPI.Status() if status is None else status
        obj = self.recv(None, source, tag, status)
        try:
            # A key arrives as a FileKey; others may have a file name, too, such as an OSError.
            if obj is not None and type(obj) is not FileKey:
                raise InvalidKeyError(repr(obj)[:100], filename=None)
            return _as_key(obj)
        except InvalidKeyError as error:
            raise InvalidKeyError(
                f"what rank {status.source} sent is no key, and now lost: receive objects by recv: "
                f"{error}",
                filename=error.filename,
            ) from None

    # ---- blocks --------------------------------------------------------------------------------

    def assemble(
        self,
        block: npt.ArrayLike,
        axis: int = 0,
        *,
        offset: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
    ) -> npt.NDArray[Any]:
        """Return the array that the blocks of all ranks make, on every rank, mapped by all.

        Every rank writes its block into its place in the memory of its host, which holds one copy,
        however many ranks it has. See `put_blocks` for blocks, places and errors.

        >>> import numpy as np
        >>> with Exchange(MPI.COMM_SELF) as ex:
        ...     ex.assemble(np.ones((2, 3))).shape
        (2, 3)
        """
        self._check()
        describe = partial(blocks.describe, axis=axis, offset=offset, shape=shape)
        return assembly.assemble(self._collectives, block, describe)

    def put_blocks(
        self,
        block: npt.ArrayLike,
        axis: int = 0,
        *,
        offset: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
    ) -> FileKey:
        """Write the array that the blocks of all ranks make, and return its key on every rank.

        `get(key)[a:b]` reads only the pages of that slice, where the file system can map. The file
        is a valid `.npy`, in Fortran order if all blocks are. It stays until it is evicted.

        Parameters
        ----------
        block:
            This rank's part. All blocks have the same dtype and number of dimensions; without
            `offset`, they differ in length only along `axis`, where it may be 0. The elements
            cannot be Python objects. Units and masks are refused: a `.npy` has none.
        axis:
            The axis along which the blocks follow one another, in the order of ranks.
        offset, shape:
            Where this block starts in the whole array, and the shape of the whole, for
            decompositions along several axes. The blocks must fill the whole without overlap.

        Raises
        ------
        ValueError
            The blocks do not fit together; all ranks raise the same error.
        TypeError, ValueError
            This rank's block cannot be a part of any array; the others raise `RemoteError`.
        RemoteError
            Another rank could not write its block; the file is removed.
        """
        self._check()
        describe = partial(blocks.describe, axis=axis, offset=offset, shape=shape)
        return assembly.put_blocks(self._collectives, self.connector, block, describe, self.root)


def _as_key(obj: Any) -> FileKey | None:
    """Return a key of any kind as a `FileKey`, None as None; else `InvalidKeyError`."""
    return None if obj is None else checked(obj)


#: The same class, under the name of what it does.
connect = Exchange

#: mpi4py's own, under the name that it has in this package.
Request = MPI.Request
