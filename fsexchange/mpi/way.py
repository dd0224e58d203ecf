"""Way: what the ways have in common by which a body travels past the slab."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from fsexchange.mpi.codec import Memory
    from fsexchange.mpi.message import Pieces


class Sent(NamedTuple):
    """A body on its way: what says where it is, how to withdraw it, and what is yet to do.

    What is yet to do is done when the message that says where it is is out.
    """

    number: int
    place: bytes = b""
    withdraw: Callable[[], object] = bool
    finish: Callable[[], object] = bool


class Way(Protocol):
    """A way by which bodies travel."""

    @property
    def nbytes(self) -> int:
        """The bytes that wait for receivers, as far as is known."""

    def put(self, pieces: Pieces, nbytes: int, dest: int) -> Sent | None:
        """Send a body; None if there is no room for it."""

    def fetch(self, rank: int, number: int, nbytes: int, place: Memory) -> Memory:
        """Return a body that a rank has sent, as memory of the caller's own."""

    def look(self) -> None:
        """Let go of what receivers have."""

    def close(self) -> None:
        """End it, whatever still waits."""
