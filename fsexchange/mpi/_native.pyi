from collections.abc import Callable
from typing import Any

import numpy as np

from fsexchange.mpi.codec import Memory
from fsexchange.mpi.room import HostRoom

STREAMS: int

def release(taken: memoryview, number: int, kept: bool, /) -> None: ...
def take_slot(slab: memoryview, held: list[int], readers: int, /) -> bool: ...
def place(
    slab: memoryview,
    held: list[int],
    readers: int,
    before: bytes,
    sender: bytes,
    body: bytes,
    buffer: Memory,
    after: bytes,
    /,
) -> bytes | None: ...
def fill(
    slab: memoryview,
    record: int,
    has_slots: bool,
    buffers: list[Memory],
    starts: list[int],
    start: int,
    /,
) -> int: ...
def empty(
    slab: memoryview, record: int, into: memoryview | None, nbytes: int, done: memoryview, /
) -> None: ...
def order() -> None: ...
def arrive(
    senders: dict[bytes, tuple[memoryview, object, memoryview, dict[int, HostRoom]]],
    arrays: dict[bytes, tuple[np.dtype[Any], tuple[int, ...]]],
    ndarray: type,
    empty: Callable[[int], memoryview],
    take: Callable[[list[Any]], Any],
    drop: Callable[[list[Any]], object],
    said: bytes,
    /,
) -> Any: ...
def copy_past(into: memoryview, data: Memory, /) -> None: ...
