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
from collections.abc import Callable
from typing import Any

from mpi4py import MPI

from fsexchange.errors import StoreClosedError
from fsexchange.mpi.codec import this_script
from fsexchange.mpi.leaving import leave
from fsexchange.mpi.sharing import share


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
        self.internal = comm.Dup()
        self.rank, self.size = comm.rank, comm.size
        self._above: Membership | None = None
        self._abort_timeout = abort_timeout
        try:
            everyone = self.internal.allgather(
                (
                    socket.gethostname(),
                    this_script(),
                    *_checked(root, inline_limit, abort_timeout),
                )
            )
            hosts, scripts, roots, problems = zip(*everyone, strict=True)
            self.hosts = list(hosts)
            #: Whether all ranks run the same main module.
            self.same_script = len(set(scripts)) == 1
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
        except Exception:
            self._free()  # all ranks are here, as they all raise this error
            raise
        self._left = False

    def over(self, comm: MPI.Intracomm) -> Membership:
        """Return the membership of some of these ranks, who share this directory; collective."""
        made = copy.copy(self)
        made.comm, made.internal = comm, comm.Dup()
        made.rank, made.size = comm.rank, comm.size
        ranks = comm.group.Translate_ranks(None, self.comm.group)
        made.hosts = [self.hosts[rank] for rank in ranks]
        made.root = ranks.index(self.root) if self.root in ranks else 0
        made._above = self
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

    @property
    def has_left(self) -> bool:
        """Whether this Exchange, or the one that its directory belongs to, was closed."""
        return self._left or (self._above is not None and self._above.has_left)

    def leave(self, drain: Callable[[], None], error: BaseException | None = None) -> None:
        """Wait for all ranks, then call `drain` and end the store, once; collective.

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
            drain()
            if self._above is None:
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
