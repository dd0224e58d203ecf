"""Membership: one rank among those that share a directory, from joining to leaving."""

from __future__ import annotations

import atexit
import contextlib
import copy
import operator
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from mpi4py import MPI

from fsexchange.connector.directory import clear_owned
from fsexchange.connector.hostcache import HostCache
from fsexchange.errors import MismatchError, StoreClosedError
from fsexchange.mpi import slab as slab_module
from fsexchange.mpi.bodies import Bodies
from fsexchange.mpi.codec import Codec, this_script
from fsexchange.mpi.hosts import Hosts
from fsexchange.mpi.leaving import leave
from fsexchange.mpi.limits import SMALL
from fsexchange.mpi.message import the_call
from fsexchange.mpi.rooms import Rooms
from fsexchange.mpi.sharing import share
from fsexchange.mpi.slab import Slab

# What a job that is aborted leaves nothing of: the memberships that this process has not left.
_memberships: list[Membership] = []

# Seconds for which a rank that Ctrl-C stopped waits for the others: they got it at the same time,
# and those that wait in MPI never hear of it.
_INTERRUPTED_WITHIN = 1.0

# The status with which `python -m mpi4py` has mpi4py abort the job when the interpreter ends, after
# the exit handlers. Of `sys.exit(1)` the interpreter itself leaves no trace for these.
_abort_status = 0
_tell_mpi4py: Callable[[int], None] = vars(MPI).get("_set_abort_status", lambda status: None)


def _set_abort_status(status: int) -> None:
    global _abort_status
    _abort_status = status
    _tell_mpi4py(status)


vars(MPI)["_set_abort_status"] = _set_abort_status


class ArgumentError(ValueError, MPI.Exception):
    """A wrong root, rank or tag: mpi4py's own error, whose class is MPI's, and a `ValueError`."""

    def __init__(self, code: int, said: str) -> None:
        MPI.Exception.__init__(self, code)
        self._said = said

    def __str__(self) -> str:
        return self._said


def duplicate(comm: MPI.Intracomm) -> MPI.Intracomm:
    """Return a duplicate of a communicator, as mpi4py has it; collective."""
    try:
        return MPI.Intracomm(comm).Dup()
    except MPI.Exception as error:
        raise RuntimeError(
            "MPI makes no more communicators, of which each Exchange has two until it is closed: "
            f"{error}"
        ) from error


def _second(comm: MPI.Intracomm) -> MPI.Intracomm:
    """Return a duplicate of the communicator of an Exchange, which is freed if there is none."""
    try:
        return duplicate(comm)
    except RuntimeError:
        MPI.Intracomm.Free(comm)
        raise


def clear_and_abort(status: int) -> None:
    """Clear every store that this rank owns or shares by an Exchange, and end the job."""
    with contextlib.ExitStack() as last:
        # Whatever fails before it, the others must not hang.
        last.callback(MPI.COMM_WORLD.Abort, status)
        for membership in _memberships:
            if membership.temporary:
                last.callback(membership.connector.close, clear=True)
            last.callback(membership.copies.close, clear=True)
        last.callback(clear_owned)


class Membership:
    """One rank among those that share a directory.

    All ranks make theirs together. If one rank cannot, all raise the same error.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        store_dir: str | os.PathLike[str] | None,
        *,
        root: int,
        inline_limit: int,
        abort_timeout: float,
        host_cache: int | None,
        options: dict[str, Any],
    ) -> None:
        self.comm = comm
        #: Messages of the library's own, under the tags of `wire`: those of collectives and of
        #: leaving, and bodies of long messages.
        self.internal = _second(comm)
        self.rank, self.size = comm.rank, comm.size
        self._above: Membership | None = None
        self._abort_timeout = abort_timeout
        slab = None
        if self.size > 1:
            with contextlib.suppress(OSError):  # too many open files: then MPI carries the bodies
                slab = Slab()
        path = "" if slab is None else slab.path
        mine = path, slab_module.IN_USE, slab_module.this_host(), os.urandom(8), this_script()
        try:
            checked = _checked(root, inline_limit, abort_timeout, host_cache)
            everyone = self.internal.allgather((*mine, socket.gethostname(), *checked))
            paths, in_use, places, names, scripts, hosts, roots, problems = zip(
                *everyone, strict=True
            )
            self.codec = Codec(same_script=len(set(scripts)) == 1, small=SMALL)
            for rank, problem in enumerate(problems):
                if problem:
                    raise ValueError(f"{problem} on rank {rank}")
            if len(set(roots)) > 1 or not 0 <= root < self.size:
                raise ValueError(
                    f"root must be the same rank below {self.size} everywhere, not {sorted(roots)}"
                )
            self.root = root
            self.connector, self.temporary, self.inline_limit = share(
                self.internal, store_dir, root, list(hosts), inline_limit, options
            )
            self.hosts = self._reachable(paths, Hosts(hosts, places, self.rank))
            if slab is not None and not slab_module.IN_USE:
                slab.close()
                slab = None
            self.rooms = Rooms(self.internal, self.connector, self.hosts)
            self.copies = HostCache(self.connector.store_dir, names[0].hex(), host_cache)
            if host_cache != 0 and len(self.hosts.near) > 1:
                self.connector.keep_copies(self.copies)
            self.bodies = Bodies(
                self.internal,
                self.connector,
                self.hosts.names,
                slab,
                [
                    path if in_use[n] and n in self.hosts.near else None
                    for n, path in enumerate(paths)
                ],
                names[0],
                self.inline_limit,
            )
        except Exception:
            if slab is not None:
                slab.close()
            self._free()  # all ranks are here, as they all raise this error
            raise
        #: Of each rank its number in the Exchange that the directory belongs to.
        self.ranks_above: Sequence[int] = range(self.size)
        self._left = False
        self._pid = os.getpid()

    def _reachable(self, paths: Sequence[str], hosts: Hosts) -> Hosts:
        """Return the hosts, or if a rank cannot open its neighbour's slab, each rank as its own.

        Processes of one machine may be in containers that hide them from each other; collective.
        """
        near = hosts.near
        try:
            os.close(os.open(paths[near[near.index(self.rank) - 1]], os.O_RDWR | os.O_CLOEXEC))
            opens = True
        except OSError:
            opens = False
        if all(self.internal.allgather(opens)):  # `allreduce` would make a communicator
            return hosts
        return Hosts(hosts.names, range(self.size), self.rank)

    def over(self, comm: MPI.Intracomm) -> Membership:
        """Return the membership of some of these ranks, who share this directory; collective."""
        made = copy.copy(self)
        made.comm, made.internal = comm, _second(comm)
        made.rank, made.size = comm.rank, comm.size
        ranks = comm.group.Translate_ranks(None, self.comm.group)
        made.hosts = self.hosts.among(ranks)
        made.rooms = Rooms(made.internal, self.connector, made.hosts)
        made.root = ranks.index(self.root) if self.root in ranks else 0
        made.ranks_above = [self.ranks_above[rank] for rank in ranks]
        made._above = self._above or self
        made._left = False
        return made

    def check(self, *, root: int = 0, dest: int = 0) -> None:
        """Raise unless this rank is still a member, and `root` or `dest` is a rank."""
        if self._left or (self._above is not None and self._above._left):  # as `has_left`, inline
            raise StoreClosedError(
                f"this Exchange over {self.connector.store_dir} was closed",
                path=self.connector.store_dir,
            )
        if not 0 <= root < self.size:
            raise ArgumentError(
                MPI.ERR_ROOT, f"root is {root}; there are ranks 0 to {self.size - 1}"
            )
        if not (0 <= dest < self.size or dest == MPI.PROC_NULL):
            raise ArgumentError(
                MPI.ERR_RANK, f"dest is {dest}; there are ranks 0 to {self.size - 1}"
            )

    @property
    def has_left(self) -> bool:
        """Whether this Exchange, or the one that its directory belongs to, was closed."""
        return self._left or (self._above is not None and self._above._left)

    def leave_at_exit(self) -> None:
        """Have the end of the interpreter call `leave`, unless the program has.

        Exit handlers run last in, first out: this one before the one that clears the store, and
        all of them before mpi4py finalizes MPI.
        """
        _memberships.append(self)
        atexit.register(self._at_exit)

    def leave(self, error: BaseException | None = None) -> None:
        """Wait for all ranks, drop what nobody received, and end the store, once; collective.

        A rank that leaves by an error aborts the job if the others do not come in time.
        """
        if self._left or os.getpid() != self._pid:  # a forked child is no rank
            return
        if error is not None and not _is_normal_end(error) and self.size > 1:
            _say("".join(traceback.format_exception(error)).rstrip("\n"))
        unread = self._leave(error)
        if unread is not None and error is None:
            raise unread

    def _leave(self, error: BaseException | None) -> MismatchError | None:
        """Leave; return an error if another rank has called a collective that this one has not."""
        self._left = True
        by_exception = error is not None and not _is_normal_end(error) and self.size > 1
        timeout = self._abort_timeout
        if isinstance(error, KeyboardInterrupt):
            timeout = min(timeout, _INTERRUPTED_WITHIN)
        if by_exception:
            _say(
                f"fsexchange: {self._me} leaves its Exchange by this exception; waiting up to "
                f"{timeout:g} s for all {self.size} ranks to leave"
            )

        def tell(missing: list[int]) -> None:
            _say(
                f"fsexchange: {self._me} has left its Exchange, and waits: "
                + self._had_not_left(missing, timeout)
            )

        try:
            missing = leave(self.internal, by_exception=by_exception, timeout=timeout, tell=tell)
        except BaseException:  # Ctrl-C: the others might wait for this rank for ever
            self._abort("it was interrupted while it waited for the others to leave")
            raise
        if missing:
            self._abort(self._had_not_left(missing, timeout))
            return None
        unread: list[tuple[int, bytearray]] = []
        try:
            self.bodies.drain(self.comm)
            unread = self.bodies.drain(self.internal)
            if self._above is None:
                self.bodies.close()
                self.connector.close()
                self.copies.close()
        finally:
            self.internal.Barrier()
            self.rooms.free()
            self._free()
            if self._above is None:
                _memberships.remove(self)
                atexit.unregister(self._at_exit)
        if not unread:
            return None
        rank, packet = unread[0]
        host = self.hosts.names[rank]
        return MismatchError(
            f"{self._me} has left its Exchange, and rank {rank} ({host}) has called "
            f"{the_call(packet)}: all ranks must call the same verbs in the same order",
            rank=rank,
            host=host,
        )

    def _at_exit(self) -> None:
        # A forked child is no rank. The interpreter has printed the exception, if any.
        if not self._left and os.getpid() == self._pid and not MPI.Is_finalized():
            failed = SystemExit(_abort_status) if _abort_status else None
            unread = self._leave(getattr(sys, "last_value", failed))
            if unread is not None:
                _say(f"fsexchange: {unread}")

    def _free(self) -> None:
        """Free the communicators; collective."""
        self.internal.Free()
        MPI.Intracomm.Free(self.comm)

    def _abort(self, why: str) -> None:
        try:
            _say(f"fsexchange: {self._me} aborts the job: {why}")
            time.sleep(0.5)  # an abort is faster than what mpirun has yet to print
        finally:
            clear_and_abort(1)

    @property
    def _me(self) -> str:
        return f"rank {self.rank} ({self.hosts.names[self.rank]})"

    def _had_not_left(self, missing: list[int], timeout: float) -> str:
        some = ", ".join(f"{rank} ({self.hosts.names[rank]})" for rank in missing[:8])
        more = ", ..." if len(missing) > 8 else ""
        return f"{len(missing)} of {self.size} ranks had not left after {timeout:g} s: {some}{more}"


def _is_normal_end(error: BaseException) -> bool:
    """Return whether the program ends without a failure, as by `sys.exit()`."""
    return isinstance(error, SystemExit) and (error.code is None or error.code == 0)


def _checked(
    root: int, inline_limit: int, abort_timeout: float, host_cache: int | None
) -> tuple[int, str]:
    """Return the root, and what is wrong with this rank's arguments, which all ranks then raise."""
    try:
        root = operator.index(root)
        cache = operator.index(0 if host_cache is None else host_cache)
        if operator.index(inline_limit) >= 0 and float(abort_timeout) >= 0 and cache >= 0:
            return root, ""
    except (TypeError, ValueError):
        pass
    return -1, (
        "root should be a rank, inline_limit and host_cache bytes and abort_timeout seconds, 0 or "
        f"more, and are {root!r}, {inline_limit!r}, {host_cache!r} and {abort_timeout!r}"
    )


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a closed stderr must not keep us from leaving
        print(text, file=sys.stderr, flush=True)
