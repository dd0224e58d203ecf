from collections.abc import Callable
from typing import Any

from fsexchange.mpi.codec import Memory

def take_slot(slab: memoryview, held: list[int], /) -> bool: ...
def fill(
    slab: memoryview,
    record: int,
    slots: int,
    buffers: list[Memory],
    starts: list[int],
    start: int,
    /,
) -> int: ...
def empty(slab: memoryview, record: int, slots: int, into: memoryview, start: int, /) -> int: ...
def guard(
    take: Callable[[list[bytes]], Any], drop: Callable[[list[bytes]], object], what: bytes, /
) -> Any: ...
