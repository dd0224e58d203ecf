"""Membership: one rank among those that share a directory, from joining to leaving."""

from __future__ import annotations

import contextlib
import copy
import operator
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from mpi4py import MPI

from fsexchange.errors import StoreClosedError
from fsexchange.mpi import slab as slab_module
from fsexchange.mpi.bodies import Bodies
from fsexchange.mpi.codec import Codec, this_script
from fsexchange.mpi.leaving import leave
from fsexchange.mpi.sharing import share
from fsexchange.mpi.slab import Slab


class ArgumentError(ValueError, MPI.Exception):
    """A wrong root, rank or tag: mpi4py's own error, whose class is MPI's, and a `ValueError`."""

    def __init__(self, code: int, said: str) -> None:
        MPI.Exception.__init__(self, code)
        self._said = said

    def __str__(self) -> str:
        return self._said


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
        options: dict[str, Any],
    ) -> None:
        self.comm = comm
        #: Messages of the library's own, under the tags of `wire`: those of collectives and of
        #: leaving, and bodies of long messages.
        self.internal = MPI.Intracomm(comm).Dup()
        self.rank, self.size = comm.rank, comm.size
        self._above: Membership | None = None
        self._abort_timeout = abort_timeout
        slab = Slab()
        mine = slab.path, slab_module.this_host(), os.urandom(8), this_script()
        try:
            everyone = self.internal.allgather(
                (*mine, socket.gethostname(), *_checked(root, inline_limit, abort_timeout))
            )
            paths, places, names, scripts, hosts, roots, problems = zip(*everyone, strict=True)
            self.hosts = list(hosts)
            self.codec = Codec(same_script=len(set(scripts)) == 1)
            for rank, problem in enumerate(problems):
                if problem:
                    raise ValueError(f"{problem} on rank {rank}")
            if len(set(roots)) > 1 or not 0 <= root < self.size:
                raise ValueError(
                    f"root must be the same rank below {self.size} everywhere, not {sorted(roots)}"
                )
            self.root = root
            self.connector, self._temporary, self.inline_limit = share(
                self.internal, store_dir, root, self.hosts, inline_limit, options
            )
            near = [n for n, place in enumerate(places) if place == places[self.rank]]
            self.bodies = Bodies(
                self.internal,
                self.connector,
                self.hosts,
                slab,
                self._reachable(paths, near),
                names[0],
                self.inline_limit,
            )
        except Exception:
            slab.close()
            self._free()  # all ranks are here, as they all raise this error
            raise
        self._ranks: Sequence[int] = range(self.size)
        self._left = False

    def _reachable(self, paths: Sequence[str], near: list[int]) -> list[str | None]:
        """Return the slabs of the ranks on this host, none if a rank cannot open its neighbour's.

        Processes of one host may be in containers that hide them from each other; collective.
        """
        try:
            os.close(os.open(paths[near[near.index(self.rank) - 1]], os.O_RDWR | os.O_CLOEXEC))
            opens = True
        except OSError:
            opens = False
        if not self.internal.allreduce(opens, MPI.LAND):
            near = [self.rank]
        return [path if rank in near else None for rank, path in enumerate(paths)]

    def over(self, comm: MPI.Intracomm) -> Membership:
        """Return the membership of some of these ranks, who share this directory; collective."""
        made = copy.copy(self)
        made.comm, made.internal = comm, MPI.Intracomm(comm).Dup()
        made.rank, made.size = comm.rank, comm.size
        ranks = comm.group.Translate_ranks(None, self.comm.group)
        made.hosts = [self.hosts[rank] for rank in ranks]
        made.root = ranks.index(self.root) if self.root in ranks else 0
        made._ranks = [self._ranks[rank] for rank in ranks]
        made._above = self._above or self
        made._left = False
        return made

    def check(self, *, root: int | None = None, dest: int | None = None) -> None:
        """Raise unless this rank is still a member, and `root` or `dest` is a rank."""
        if self.has_left:
            raise StoreClosedError(
                f"this Exchange over {self.connector.store_dir} was closed",
                path=self.connector.store_dir,
            )
        if root is not None and not 0 <= root < self.size:
            raise ArgumentError(
                MPI.ERR_ROOT, f"root is {root}; there are ranks 0 to {self.size - 1}"
            )
        if dest is not None and not (0 <= dest < self.size or dest == MPI.PROC_NULL):
            raise ArgumentError(
                MPI.ERR_RANK, f"dest is {dest}; there are ranks 0 to {self.size - 1}"
            )

    def rank_above(self, rank: int) -> int:
        """Return a rank's number in the Exchange that the directory belongs to."""
        return self._ranks[rank]

    @property
    def has_left(self) -> bool:
        """Whether this Exchange, or the one that its directory belongs to, was closed."""
        return self._left or (self._above is not None and self._above._left)

    def leave(self, error: BaseException | None = None) -> None:
        """Wait for all ranks, drop what nobody received, and end the store, once; collective.

        A rank that leaves by an error aborts the job if the others do not come in time.
        """
        if self._left:
            return
        self._left = True
        by_exception = error is not None and self.size > 1
        if error is not None and by_exception:
            _say(
                "".join(traceback.format_exception(error))
                + f"fsexchange: rank {self.rank} ({self.hosts[self.rank]}) leaves its Exchange by "
                f"this exception; waiting up to {self._abort_timeout:g} s for all {self.size} "
                "ranks to leave"
            )
        timeout = self._abort_timeout if by_exception else None
        missing = leave(self.internal, by_exception=by_exception, timeout=timeout)
        if missing:
            self._abort(missing)
            return
        try:
            self.bodies.drain(self.comm)
            if self._above is None:
                self.bodies.close()
                self.connector.close()
        finally:
            self.internal.Barrier()
            self._free()

    def _free(self) -> None:
        """Free the communicators; collective."""
        self.internal.Free()
        MPI.Intracomm.Free(self.comm)

    def _abort(self, missing: list[int]) -> None:
        try:
            some = ", ".join(f"{rank} ({self.hosts[rank]})" for rank in missing[:8])
            _say(
                f"fsexchange: rank {self.rank} ({self.hosts[self.rank]}) aborts the job: "
                f"{len(missing)} of {self.size} ranks had not left after "
                f"{self._abort_timeout:g} s: {some}" + (", ..." if len(missing) > 8 else "")
            )
            time.sleep(0.5)  # an abort is faster than what mpirun has yet to print
            if self._temporary:
                self.connector.close(clear=True)
        finally:
            MPI.COMM_WORLD.Abort(1)  # if this rank fails here, the others must not hang


def _checked(root: int, inline_limit: int, abort_timeout: float) -> tuple[int, str]:
    """Return the root, and what is wrong with this rank's arguments, which all ranks then raise."""
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


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a closed stderr must not keep us from leaving
        print(text, file=sys.stderr, flush=True)
