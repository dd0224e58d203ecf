"""What an Exchange is below its objects: a shared directory, keys among ranks, and a common end."""

from __future__ import annotations

import contextlib
import operator
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpi4py import MPI

from fsexchange.connector.keys import KEY_SIZE, FileKey
from fsexchange.errors import InvalidKeyError, RemoteError, StoreClosedError
from fsexchange.mpi.leaving import leave
from fsexchange.mpi.mailbox import Mailbox
from fsexchange.mpi.message import named_in
from fsexchange.mpi.sharing import INLINE_LIMIT, share
from fsexchange.store.store import Store

if TYPE_CHECKING:
    from typing_extensions import Self

_NO_KEY = bytes(KEY_SIZE)
_FAILED = b"\xff"  # no file name of a key begins so, and no message of an object; text follows


class KeyExchange:
    """Ranks that share a store, exchange keys of its objects, and leave together."""

    def __init__(
        self,
        comm: MPI.Comm | None = None,
        store_dir: str | os.PathLike[str] | None = None,
        *,
        root: int = 0,
        inline_limit: int = INLINE_LIMIT,
        abort_timeout: float = 30.0,
        clear: bool = True,
        markers: bool = False,
        write_once: bool = False,
        trust_directory: bool = False,
    ) -> None:
        if comm is None:
            comm = MPI.COMM_WORLD
        if not isinstance(comm, MPI.Intracomm):
            raise ValueError("Exchange takes an intracommunicator; merge this one first: Merge()")
        self.comm = comm.Dup()
        # Messages of the user's own on `comm` must not be taken for ours, nor either for acks.
        self._comm = comm.Dup()
        self._control = comm.Dup()
        self.rank, self.size = comm.rank, comm.size
        self.root = root
        self.abort_timeout = abort_timeout
        try:
            everyone = self._comm.allgather(
                (socket.gethostname(), *_checked(root, inline_limit, abort_timeout))
            )
            hosts, roots, problems = zip(*everyone, strict=True)
            self.hosts = list(hosts)
            for rank, problem in enumerate(problems):
                if problem:
                    raise ValueError(f"{problem} on rank {rank}")
            if len(set(roots)) > 1 or not 0 <= root < self.size:
                raise ValueError(
                    f"root must be the same rank below {self.size} everywhere, not {sorted(roots)}"
                )
            self.connector, self._temporary, self.inline_limit = share(
                self._comm,
                store_dir,
                root,
                self.hosts,
                inline_limit,
                {
                    "clear": clear,
                    "markers": markers,
                    "write_once": write_once,
                    "trust_directory": trust_directory,
                },
            )
        except Exception:
            self._free()  # every rank is here: the error is one of all
            raise
        self.store = Store(self.connector)
        self.put = self.store.put
        self.get = self.store.get
        self.evict = self.store.evict
        self.ref = self.store.ref
        self._mailbox = Mailbox(self._comm, self._control)
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank {self.rank} of {self.size}, {self.connector!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._closed:
            return
        if error is None or self.size == 1:
            self.close()
        else:
            self._leave_by(error)

    # ---- keys -----------------------------------------------------------------------------------

    def bcast_key(self, key: FileKey | None = None, root: int = 0) -> FileKey | None:
        """Return the root's key on every rank; the others' `key` is ignored."""
        self._check(root=root)
        record, error = _record(key if self.rank == root else None)
        buffer = bytearray(record)
        self._comm.Bcast(buffer, root)
        if error is not None:
            raise error
        return self._key(bytes(buffer), root)

    def gather_keys(self, key: FileKey | None, root: int = 0) -> list[FileKey | None] | None:
        """Return the keys of all ranks, in their order, on the root; None on the others."""
        self._check(root=root)
        record, error = _record(key)
        buffer = bytearray(KEY_SIZE * self.size) if self.rank == root else None
        self._comm.Gather(record, buffer, root)
        if error is not None:
            raise error
        return None if buffer is None else self._keys(buffer)

    def allgather_keys(self, key: FileKey | None) -> list[FileKey | None]:
        """Return the keys of all ranks, in their order, on every rank."""
        self._check()
        record, error = _record(key)
        buffer = bytearray(KEY_SIZE * self.size)
        self._comm.Allgather(record, buffer)
        if error is not None:
            raise error
        return self._keys(buffer)

    def scatter_keys(
        self, keys: Sequence[FileKey | None] | None = None, root: int = 0
    ) -> FileKey | None:
        """Return this rank's of the root's keys, one for each rank; the others' are ignored."""
        self._check(root=root)
        records, error = _records(keys, self.size) if self.rank == root else (None, None)
        buffer = bytearray(KEY_SIZE)
        self._comm.Scatter(records, buffer, root)
        if error is not None:
            raise error
        return self._key(bytes(buffer), root)

    def alltoall_keys(self, keys: Sequence[FileKey | None]) -> list[FileKey | None]:
        """Return the keys for this rank of all ranks, in their order; each has one for each."""
        self._check()
        records, error = _records(keys, self.size)
        buffer = bytearray(KEY_SIZE * self.size)
        self._comm.Alltoall(records, buffer)
        if error is not None:
            raise error
        return self._keys(buffer)

    def send_key(self, key: FileKey | None, dest: int, tag: int = 0) -> None:
        """Send a key to one rank, which receives it by `recv_key`; never waits for it."""
        self._check(dest=dest)
        record, error = _record(key)
        self._mailbox.post([record], dest, tag)
        if error is not None:
            raise error

    def recv_key(
        self,
        source: int = MPI.ANY_SOURCE,
        tag: int = MPI.ANY_TAG,
        status: MPI.Status | None = None,
    ) -> FileKey | None:
        """Wait for a key that another rank sent by `send_key`, and return it."""
        self._check()
        status = MPI.Status() if status is None else status
        record = self._mailbox.receive(source, tag, status)
        if record is None:
            return None
        lost = named_in(record)
        if lost is not None:
            self.connector.evict(lost)
        if len(record) != KEY_SIZE:
            raise InvalidKeyError(
                f"what rank {status.source} sent is no key; receive what was sent by send by recv",
                filename=None,
            )
        return self._key(bytes(record), status.source)

    # ---- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for all ranks, end the store, and wait until it is gone; collective."""
        if self._closed:
            return
        self._closed = True
        leave(self._control, by_exception=False, timeout=None)
        self._end()

    def _end(self) -> None:
        try:
            for message in self._mailbox.drain():
                key = named_in(message)
                if key is not None:
                    self.connector.evict(key)  # the store may be kept, and nobody knows of it
            self.connector.close()
        finally:
            self._control.Barrier()
            self._free()

    def _free(self) -> None:
        for comm in (self._control, self._comm, self.comm):
            comm.Free()

    def _leave_by(self, error: BaseException) -> None:
        """Close with the others, if they come; end the job if they wait for us elsewhere."""
        self._closed = True
        _say(
            "".join(traceback.format_exception(error))
            + f"fsexchange: rank {self.rank} ({self.hosts[self.rank]}) leaves its Exchange by this "
            f"exception; waiting up to {self.abort_timeout:g} s for all {self.size} ranks to leave"
        )
        missing = leave(self._control, by_exception=True, timeout=self.abort_timeout)
        if not missing:
            self._end()
            return
        try:
            some = ", ".join(f"{rank} ({self.hosts[rank]})" for rank in missing[:8])
            _say(
                f"fsexchange: rank {self.rank} ({self.hosts[self.rank]}) aborts the job: "
                f"{len(missing)} of {self.size} ranks had not left after {self.abort_timeout:g} s: "
                + some
                + (", ..." if len(missing) > 8 else "")
            )
            time.sleep(0.5)  # an abort overtakes what mpirun has still to print
            if self._temporary:
                self.connector.close(clear=True)
        finally:
            MPI.COMM_WORLD.Abort(1)  # whatever fails here must not hang the others

    # ---- for the verbs --------------------------------------------------------------------------

    def _check(self, *, root: int | None = None, dest: int | None = None) -> None:
        if self._closed:
            raise StoreClosedError(
                f"this Exchange over {self.connector.store_dir} was closed",
                path=self.connector.store_dir,
            )
        if root is not None and not 0 <= root < self.size:
            raise ValueError(f"root is {root}; there are ranks 0 to {self.size - 1}")
        if dest is not None and not (0 <= dest < self.size or dest == MPI.PROC_NULL):
            raise ValueError(f"dest is {dest}; there are ranks 0 to {self.size - 1}")

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
            self._key(bytes(records[rank * KEY_SIZE : (rank + 1) * KEY_SIZE]), rank)
            for rank in range(self.size)
        ]


def _checked(root: int, inline_limit: int, abort_timeout: float) -> tuple[int, str]:
    """Return the root, and what is wrong with one rank's arguments, to be raised on all."""
    try:
        root = operator.index(root)
        if operator.index(inline_limit) >= 0 and float(abort_timeout) >= 0:
            return root, ""
    except (TypeError, ValueError):
        pass
    return -1, (
        "root should be a rank, inline_limit bytes and abort_timeout seconds, 0 or more, and are "
        f"{root!r}, {inline_limit!r} and {abort_timeout!r}"
    )


def _record(key: FileKey | None) -> tuple[bytes, Exception | None]:
    """Return what to send for a key, and what to raise here once it is sent."""
    if key is None:
        return _NO_KEY, None
    try:
        return FileKey.pack(key), None
    except Exception as error:  # whatever it is, the others wait for a record
        return _failed(error), error


def _records(keys: Sequence[FileKey | None] | None, size: int) -> tuple[bytes, Exception | None]:
    """Return what to send for one key a rank, to all the error of any of them."""
    try:
        keys = [None] * size if keys is None else list(keys)
        if len(keys) != size:
            raise ValueError(f"one key for each of the {size} ranks is needed, not {len(keys)}")
        return b"".join(_NO_KEY if key is None else FileKey.pack(key) for key in keys), None
    except Exception as error:
        return _failed(error) * size, error


def _failed(error: Exception) -> bytes:
    text = _FAILED + str(error).encode("ascii", "replace")
    return text[:KEY_SIZE].ljust(KEY_SIZE, b"\0")


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a closed stderr must not keep us from leaving
        print(text, file=sys.stderr, flush=True)
