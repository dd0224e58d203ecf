"""Ranks of an MPI job: exchange objects of any size.

`from fsexchange.mpi import Exchange` initialises MPI. The modules `blocks`, `message` and `wire` of
this package do not, and work where mpi4py is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsexchange.mpi.exchange import Exchange, connect
    from fsexchange.mpi.request import Request

__all__ = ["Exchange", "Request", "connect"]


def __getattr__(name: str) -> Any:
    """Import the Exchange when it is first used: any of the modules imports this package first."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fsexchange.mpi import exchange

    return getattr(exchange, name)
