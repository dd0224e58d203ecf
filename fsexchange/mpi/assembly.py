"""Assembly: all ranks write their blocks of one array into its file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import FileKey
from fsexchange.mpi import blocks
from fsexchange.mpi.collectives import Collectives

if TYPE_CHECKING:
    import numpy.typing as npt


def assemble(
    collectives: Collectives,
    connector: FileConnector,
    block: npt.ArrayLike,
    describe: Callable[[npt.ArrayLike], blocks.Block],
    root: int,
) -> FileKey:
    """Write the blocks of all ranks, and return the key of the array on every rank; collective.

    `describe` describes this rank's block. The root makes the file.
    """
    rank = collectives.rank
    plan = blocks.plan(collectives.allgather(block, describe))
    slabs = blocks.slabs(plan)
    failed: Exception | None = None
    if slabs is not None:
        try:
            pieces = collectives.alltoall(blocks.cut(block, rank, plan, slabs))
            block = blocks.merge(pieces, rank, plan, slabs)
        except Exception as error:  # whatever it is, the others wait for this rank below
            failed = error
        plan = slabs
    created: list[FileKey] = []

    def create(_: object) -> FileKey:
        created.append(blocks.create(connector, plan))
        return created[0]

    def write(_: object) -> None:
        if failed is not None:
            raise failed
        blocks.write(connector, key, plan, rank, block)

    try:
        key: FileKey = collectives.bcast(None, root, create)
        collectives.allgather(None, write)
    except BaseException:
        for lost in created:
            connector.evict(lost)
        raise
    return key
