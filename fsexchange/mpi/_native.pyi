from fsexchange.mpi.codec import Memory

def fill(
    slab: memoryview,
    record: int,
    slots: int,
    slot: int,
    buffers: list[Memory],
    starts: list[int],
    start: int,
    stop: int,
    /,
) -> None: ...
def empty(
    slab: memoryview, record: int, slots: int, taken: int, into: memoryview, start: int, /
) -> int: ...
