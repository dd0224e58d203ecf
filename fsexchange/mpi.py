"""Ranks: one store for the ranks of a communicator, and its keys exchanged among them.

Importing this module initialises MPI; `import fsexchange` alone never does.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from fsexchange.connector import FileConnector
from fsexchange.directory import default_directory
from fsexchange.errors import NotSharedError, RemoteError, StoreClosedError
from fsexchange.filesystem import find_filesystem
from fsexchange.keys import RECORD_SIZE, FileKey

if TYPE_CHECKING:
    from typing_extensions import Self

# A network file system may hide a directory from a host that looked for it too early for as long
# as it caches the absence: 30 s by default on NFS (acdirmin, nfs(5)).
_HIDDEN_FOR = 35.0

_NO_KEY = bytes(RECORD_SIZE)
_FAILED = b"\xff"  # no file name of a key begins so; text follows


def connect(
    comm: MPI.Comm,
    store_dir: str | os.PathLike[str] | None = None,
    *,
    root: int = 0,
    clear: bool = True,
    markers: bool = False,
    write_once: bool = False,
    trust_directory: bool = False,
    abort_timeout: float = 30.0,
) -> Exchange:
    """Make one store for all ranks of `comm`; collective.

    The root rank makes and owns the directory, all others attach to it, and each proves that it
    sees the very same one. What fails on one rank is raised on all.

    Parameters
    ----------
    comm:
        Any intracommunicator; a duplicate of it is used, so that no message mixes with yours.
    store_dir:
        Directory that all ranks see under the same path; the root's counts. None: the root's
        `$FSEXCHANGE_DIR`; else, if all ranks are on one host, a new directory in /dev/shm, or for
        temporary files where that has less than 1 GiB free.
    root:
        Rank that makes the directory, and clears it when all have closed.
    clear, markers, write_once, trust_directory:
        As for `FileConnector`.
    abort_timeout:
        Seconds that a rank leaving the `with` by an exception waits for the others to leave, too,
        before it clears the store and aborts the job.

    Raises
    ------
    NotSharedError
        Some ranks do not see the directory; `ranks` says which.
    StoreError
        The root cannot make it.
    ValueError
        Not an intracommunicator; no store_dir and several hosts; a wrong or disputed root.

    >>> with connect(MPI.COMM_SELF) as ex:
    ...     key = ex.bcast_key(ex.connector.put(b"an object"))
    ...     bytes(ex.connector.get(key))
    b'an object'
    """
    if not isinstance(comm, MPI.Intracomm):
        raise ValueError("connect takes an intracommunicator; merge this one first: Merge()")
    comm = comm.Dup()
    try:
        everyone = comm.allgather((socket.gethostname(), root))
        hosts = [host for host, _ in everyone]
        roots = {wanted for _, wanted in everyone}
        if len(roots) > 1 or not 0 <= root < comm.size:
            raise ValueError(
                f"root must be the same rank below {comm.size} everywhere, not {sorted(roots)}"
            )
        options = {
            "clear": clear,
            "markers": markers,
            "write_once": write_once,
            "trust_directory": trust_directory,
        }
        connector, temporary = _share(comm, store_dir, root, hosts, options)
    except Exception:
        comm.Free()  # every rank is here: the error is one of all
        raise
    return Exchange(comm, connector, hosts, clear_on_abort=temporary, abort_timeout=abort_timeout)


class Exchange:
    """A store that all ranks of a communicator share; made by `connect`, closed by all.

    Use it in a `with` statement. Leaving it is collective: when all ranks have come to its end,
    the root clears the store (if that is its to clear), and it is gone when they go on. A rank
    that leaves by an exception waits for the others for `abort_timeout` seconds, then clears the
    store and aborts the job, so that nobody hangs.

    The key verbs are collective, and move `RECORD_SIZE` bytes a key, nothing of the objects. A
    rank without a key passes None, and the others receive None for it. A rank that passes
    something that is no key raises `InvalidKeyError`, and whoever was to receive it `RemoteError`.

    Attributes
    ----------
    comm, rank, size:
        The duplicated communicator, this rank in it, and the number of ranks.
    hosts:
        The host name of each rank.
    connector:
        This rank's `FileConnector`: put, get, evict. `Store(ex.connector)` takes any object.

    >>> with connect(MPI.COMM_SELF) as ex:
    ...     ex.allgather_keys(FileKey("a"))
    [FileKey(filename='a', nbytes=-1, offset=0)]
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        connector: FileConnector,
        hosts: list[str],
        *,
        clear_on_abort: bool,
        abort_timeout: float,
    ) -> None:
        self.comm = comm
        self.rank = comm.rank
        self.size = comm.size
        self.hosts = hosts
        self.connector = connector
        self.abort_timeout = abort_timeout
        self._clear_on_abort = clear_on_abort
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank {self.rank} of {self.size}, {self.connector!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            self._follow_or_abort(error)

    def bcast_key(self, key: FileKey | None = None, root: int = 0) -> FileKey | None:
        """Return the root's key on every rank; the others' `key` is ignored."""
        record, error = self._record(key if self.rank == root else None)
        buffer = bytearray(record)
        self.comm.Bcast(buffer, root)
        if error is not None:
            raise error
        return self._key(bytes(buffer), root)

    def gather_keys(self, key: FileKey | None, root: int = 0) -> list[FileKey | None] | None:
        """Return the keys of all ranks, in their order, on the root; None on the others."""
        record, error = self._record(key)
        buffer = bytearray(RECORD_SIZE * self.size) if self.rank == root else None
        self.comm.Gather(record, buffer, root)
        if error is not None:
            raise error
        return None if buffer is None else self._keys(buffer)

    def allgather_keys(self, key: FileKey | None) -> list[FileKey | None]:
        """Return the keys of all ranks, in their order, on every rank."""
        record, error = self._record(key)
        buffer = bytearray(RECORD_SIZE * self.size)
        self.comm.Allgather(record, buffer)
        if error is not None:
            raise error
        return self._keys(buffer)

    def close(self) -> None:
        """Wait for all ranks, end the store, and wait until it is gone; collective."""
        if self._closed:
            return
        self._closed = True
        # As in _follow_or_abort: a blocking barrier would not match its non-blocking one.
        self.comm.Ibarrier().Wait()
        self._end()

    def _end(self) -> None:
        try:
            self.connector.close()
        finally:
            self.comm.Barrier()
            self.comm.Free()

    def _follow_or_abort(self, error: BaseException) -> None:
        """Close with the others, if they come; end the job if they wait for us elsewhere."""
        self._closed = True
        everyone = self.comm.Ibarrier()
        deadline = time.monotonic() + self.abort_timeout
        while not everyone.Test():
            if time.monotonic() > deadline:
                try:
                    self._give_up(error)
                finally:
                    MPI.COMM_WORLD.Abort(1)  # whatever fails here must not hang the others
            time.sleep(0.001)
        self._end()

    def _give_up(self, error: BaseException) -> None:
        print(
            "".join(traceback.format_exception(error))
            + f"fsexchange: rank {self.rank} ({self.hosts[self.rank]}) left its Exchange by this "
            f"exception, and not all of the other {self.size - 1} ranks followed within "
            f"{self.abort_timeout:g} s: aborting the job",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(0.5)  # an abort overtakes what mpirun has still to print
        if self._clear_on_abort:
            self.connector.close(clear=True)

    def _record(self, key: FileKey | None) -> tuple[bytes, Exception | None]:
        """Return what to send for a key, and what to raise here once it is sent."""
        if self._closed:
            raise StoreClosedError(
                f"this Exchange over {self.connector.store_dir} was closed",
                path=self.connector.store_dir,
            )
        if key is None:
            return _NO_KEY, None
        try:
            return FileKey.pack(key), None
        except Exception as error:  # whatever it is, the others wait for a record
            text = _FAILED + str(error).encode("ascii", "replace")
            return text[:RECORD_SIZE].ljust(RECORD_SIZE, b"\0"), error

    def _key(self, record: bytes, rank: int) -> FileKey | None:
        if record == _NO_KEY:
            return None
        if record.startswith(_FAILED):
            reason = record[1:].rstrip(b"\0").decode("ascii")
            raise RemoteError(
                f"rank {rank} ({self.hosts[rank]}) passed no key: {reason}",
                rank=rank,
                host=self.hosts[rank],
            )
        return FileKey.unpack(record)

    def _keys(self, records: bytearray) -> list[FileKey | None]:
        return [
            self._key(bytes(records[rank * RECORD_SIZE : (rank + 1) * RECORD_SIZE]), rank)
            for rank in range(self.size)
        ]


# ---- how ranks come to share a directory -------------------------------------------------------


def _share(
    comm: MPI.Intracomm,
    store_dir: str | os.PathLike[str] | None,
    root: int,
    hosts: list[str],
    options: dict[str, Any],
) -> tuple[FileConnector, bool]:
    """Return this rank's connector, once all ranks have one to the same directory.

    And whether it ends with the root: not if that only attached to a store that was there.
    """
    connector: FileConnector | None = None
    offer: tuple[dict[str, Any], bool] | Exception
    if comm.rank == root:
        try:
            connector = FileConnector(_choose(store_dir, hosts), **options)
            offer = connector.config(), connector.owned and connector.clear
        except Exception as error:  # whatever it is, the others must not wait for the offer
            offer = error if _travels(error) else RemoteError(repr(error), rank=root)
    offer = comm.bcast(offer if comm.rank == root else None, root)
    if isinstance(offer, Exception):
        raise offer
    config, temporary = offer
    verdict = ""
    if connector is None:
        try:
            connector = _attach(config)
        except Exception as error:  # here, too: the others wait for the verdict
            verdict = f"{hosts[comm.rank]}: {error}"
    verdicts = comm.allgather(verdict)
    blind = {rank: verdict for rank, verdict in enumerate(verdicts) if verdict}
    if blind or connector is None:
        if connector is not None:
            connector.close()
        path, first = config["store_dir"], min(blind)
        raise NotSharedError(
            f"{len(blind)} of {comm.size} ranks do not see {path}, which rank {root} on "
            f"{hosts[root]} opened: ranks {', '.join(map(str, blind))} on "
            f"{', '.join(sorted({hosts[rank] for rank in blind}))}. Choose a store_dir on a file "
            f"system that all of these hosts mount. Rank {first} on {blind[first]}",
            path=path,
            ranks=blind,
        )
    return connector, temporary


def _travels(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _choose(store_dir: str | os.PathLike[str] | None, hosts: list[str]) -> str:
    if store_dir is not None:
        return os.fspath(store_dir)
    if os.environ.get("FSEXCHANGE_DIR"):
        return os.environ["FSEXCHANGE_DIR"]
    if len(set(hosts)) > 1:
        raise ValueError(
            f"the ranks are on {len(set(hosts))} hosts ({', '.join(sorted(set(hosts))[:3])}, ...) "
            "and share no memory: pass a store_dir that all of them mount, or set $FSEXCHANGE_DIR"
        )
    return default_directory()


def _attach(config: dict[str, Any]) -> FileConnector:
    """Attach to root's store, and be patient where a client may remember that it was not there."""
    deadline = time.monotonic() + _HIDDEN_FOR
    while True:
        try:
            # Proof enough: the store's witness has a random name of 64 bits that root just made.
            return FileConnector.from_config(config)
        except StoreClosedError:
            parent = os.path.dirname(config["store_dir"])
            if time.monotonic() > deadline or not _may_be_hidden(parent):
                raise
        time.sleep(0.05)


def _may_be_hidden(parent: str) -> bool:
    try:
        os.listdir(parent)  # clears what most clients remember of its names
        return find_filesystem(parent).policy.network
    except OSError:
        return False
