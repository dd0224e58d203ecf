"""Communicator: what an Exchange does as a communicator among others.

It is on a duplicate of the user's, as `mpi4py.util.pkl5.Intracomm` is. What it makes are Exchanges,
too, which share its directory until it is closed; what is not here is mpi4py's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from mpi4py import MPI

from fsexchange.mpi.membership import Membership, clear_and_abort, duplicate

if TYPE_CHECKING:
    from typing_extensions import Self


class Communicator(MPI.Intracomm):
    """An intracommunicator whose ranks share a directory."""

    _members: Membership

    def __new__(cls, comm: MPI.Comm | None = None, *args: Any, **options: Any) -> Self:
        """Return one on a duplicate of a communicator; collective."""
        if comm is None:
            comm = MPI.COMM_WORLD
        if isinstance(comm, MPI.Intercomm):
            raise ValueError("Exchange takes an intracommunicator; merge this one first: Merge()")
        if not isinstance(comm, MPI.Intracomm):
            raise ValueError(
                f"Exchange takes an intracommunicator, not {comm!r}; its directory is `store_dir`"
            )
        return super().__new__(cls, duplicate(comm))

    def _join(self, members: Membership) -> None:
        self._members = members

    def _plain(self) -> MPI.Intracomm:
        """Return the same communicator as mpi4py has it, whose verbs are mpi4py's."""
        return MPI.Intracomm(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._members.leave(error)

    def close(self) -> None:
        """Wait for all ranks, end the store, and wait until it is gone; collective."""
        self._members.leave()

    Free = free = Disconnect = close

    def Abort(self, errorcode: int = 0) -> NoReturn:
        """Clear the stores that this rank owns or shares by an Exchange, and end the job."""
        clear_and_abort(errorcode)
        raise SystemExit(errorcode)  # which MPI does not reach

    def Dup(self, info: MPI.Info | None = None) -> Self:
        """Return an Exchange of the same ranks."""
        made: Self = self._over(self._plain().Dup(info))
        return made

    def Clone(self) -> Self:
        """Return an Exchange of the same ranks."""
        made: Self = self._over(self._plain().Clone())
        return made

    def Dup_with_info(self, info: MPI.Info) -> Self:
        """Return an Exchange of the same ranks."""
        made: Self = self._over(self._plain().Dup_with_info(info))
        return made

    def Idup(self, info: MPI.Info | None = None) -> Any:
        """Return a communicator as mpi4py has it, and a request."""
        return self._plain().Idup(info)

    def Idup_with_info(self, info: MPI.Info) -> Any:
        """Return a communicator as mpi4py has it, and a request."""
        return self._plain().Idup_with_info(info)

    def Split(self, color: int = 0, key: int = 0) -> Any:
        """Return an Exchange of the ranks of one color."""
        return self._over(self._plain().Split(color, key))

    def Split_type(self, split_type: int, key: int = 0, info: MPI.Info = MPI.INFO_NULL) -> Any:
        """Return an Exchange of the ranks of one kind, such as those that share memory."""
        return self._over(self._plain().Split_type(split_type, key, info))

    def Create(self, group: MPI.Group) -> Any:
        """Return an Exchange of the ranks of a group."""
        return self._over(self._plain().Create(group))

    def Create_group(self, group: MPI.Group, tag: int = 0) -> Any:
        """Return an Exchange of the ranks of a group, which alone call this."""
        return self._over(self._plain().Create_group(group, tag))

    def _over(self, comm: MPI.Comm) -> Any:
        if not comm:  # of no rank's interest: COMM_NULL
            return comm
        made = MPI.Intracomm.__new__(type(self), comm)
        made._join(self._members.over(made))
        return made
