"""Ranks of an MPI job: exchange objects of any size.

    exchange        what users call; communicator: how it is one of MPI
    membership      joining and leaving together; sharing: one directory for all
    limits          which way an object takes, by its length
    pointtopoint    verbs between two ranks; MPI does the matching
        bodies      where a large object lies on its way
        slab        memory of the host that is used again; lending: memory that is not
        ways        messages to other hosts, and files
    collectives     verbs of all ranks, over packets, in messages; carriers move small ones
        rooms       where one lies that all ranks get, or a root gathers
        room        what ranks share: memory of a host, or a file; relay: from host to host
    reductions      operations over objects; assembly, blocks: one array of all ranks
    codec           an object as a pickle and buffers; wire: every kind of message, and every tag

`from fsexchange.mpi import Exchange` initialises MPI. The modules of this package that plan and
encode (blocks, message, wire) do not, and work where mpi4py is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Exchange", "Request", "connect"]

if TYPE_CHECKING:
    from mpi4py.MPI import Request

    from fsexchange.mpi.exchange import Exchange, connect
else:  # type checkers would take any name for one of the package

    def __getattr__(name: str) -> Any:
        """Import the Exchange when asked for it: importing a module imports its package first."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from fsexchange.mpi import exchange

        return getattr(exchange, name)


def __dir__() -> list[str]:
    """Return the names of the package, those that are yet to be imported included, for help()."""
    return sorted({*globals(), *__all__})
