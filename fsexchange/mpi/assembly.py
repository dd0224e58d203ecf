"""Assembly: all ranks write their blocks of one array into a room, or into its file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import FileKey
from fsexchange.mpi import blocks, wire
from fsexchange.mpi.collectives import Collectives, Late, checked
from fsexchange.mpi.limits import ASSEMBLED_BY_ROOM
from fsexchange.mpi.room import FILLED_FROM, StoreRoom, span

if TYPE_CHECKING:
    import numpy.typing as npt

    from fsexchange.mpi.relay import Parts
    from fsexchange.mpi.room import MemoryRoom, Room

#: Describes the block of a rank.
Describe: TypeAlias = "Callable[[npt.ArrayLike], blocks.Block]"


def assemble(
    collectives: Collectives, block: npt.ArrayLike, describe: Describe
) -> npt.NDArray[Any]:
    """Return the array that the blocks of all ranks make; collective."""
    late: list[BaseException] = []
    plan = _planned(collectives, wire.ASSEMBLE, block, describe, late)
    array = _assembled(collectives, block, plan)
    if late:
        raise late[0]
    return array


def _assembled(
    collectives: Collectives, block: npt.ArrayLike, plan: blocks.Plan
) -> npt.NDArray[Any]:
    rank = collectives.rank
    if not plan.nbytes:
        return np.empty(plan.shape, plan.dtype)

    def fill(room: Room) -> None:
        if isinstance(room, StoreRoom):
            written, slabs = _long_runs(collectives, block, plan)
            room.fill(blocks.runs(slabs, rank, written, 0))
        elif all(plan.run(each)[1] >= FILLED_FROM for each in range(collectives.size)):
            room.fill(blocks.runs(plan, rank, block, 0))
        elif plan.block_nbytes(rank):
            part = plan.part_of(plan.array_in(room.memory), rank)
            room.reserve(*span(part, room.memory))
            part[...] = block

    def parts(room: MemoryRoom) -> Parts:
        whole = plan.array_in(room.memory)
        views = [plan.part_of(whole, each) for each in range(collectives.size)]
        return [(each, view.T if plan.fortran else view) for each, view in enumerate(views)]

    if collectives.by_room(plan.nbytes, ASSEMBLED_BY_ROOM):
        memory = collectives.rooms.for_all(plan.nbytes, fill, parts)
        if memory is not None:
            return plan.array_in(memory)
    gathered = collectives.allgather(np.asarray(block))  # first, as the others wait for this rank
    array = plan.array_in(np.empty(plan.nbytes, np.uint8))
    for each, part in enumerate(gathered):
        plan.part_of(array, each)[...] = part
    return array


def _planned(
    collectives: Collectives, verb: int, block: npt.ArrayLike, describe: Describe, late: Late
) -> blocks.Plan:
    """Return where each block goes; collective."""
    return blocks.plan(checked(collectives.allgather_some(verb, block, describe, late)))


def put_blocks(
    collectives: Collectives,
    connector: FileConnector,
    block: npt.ArrayLike,
    describe: Describe,
    root: int,
) -> FileKey:
    """Write the blocks of all ranks, and return the key of the array on every rank; collective.

    The root makes the file.
    """
    rank = collectives.rank
    late: list[BaseException] = []
    plan = _planned(collectives, wire.PUT_BLOCKS, block, describe, late)
    failed: Exception | None = None
    try:
        block, plan = _long_runs(collectives, block, plan, late)
    except Exception as error:  # whatever it is, the others wait for this rank below
        failed = error
    created: list[FileKey] = []

    def create(_: object) -> FileKey:
        created.append(blocks.create(connector, plan))
        return created[0]

    def write(_: object) -> None:
        if failed is not None:
            raise failed
        connector.fill(key, blocks.runs(plan, rank, block, key.nbytes - plan.nbytes))

    try:
        key: FileKey = collectives.bcast(None, root, create, late)
        collectives.allgather(None, write, late)
    except BaseException:
        for lost in created:
            connector.evict(lost)
        raise
    if late:
        raise late[0]
    return key


def _long_runs(
    collectives: Collectives, block: npt.ArrayLike, plan: blocks.Plan, late: Late = None
) -> tuple[npt.ArrayLike, blocks.Plan]:
    """Return a block of this rank that has long runs, and the plan of all such; collective.

    The ranks exchange their blocks for that, if they have short runs.
    """
    slabs = blocks.slabs(plan)
    if slabs is None:
        return block, plan
    rank = collectives.rank
    pieces = collectives.alltoall(blocks.cut(block, rank, plan, slabs), late=late)
    return blocks.merge(pieces, rank, plan, slabs), slabs
