"""Assembly: all ranks write their blocks of one array into its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import FileKey
from fsexchange.mpi import blocks
from fsexchange.mpi.collectives import Collectives
from fsexchange.mpi.message import Outgoing, attempt, encode_each

if TYPE_CHECKING:
    import numpy.typing as npt


def assemble(
    collectives: Collectives,
    connector: FileConnector,
    block: npt.ArrayLike,
    description: Outgoing,
    root: int,
) -> FileKey:
    """Write the blocks of all ranks, and return the key of the array on every rank; collective.

    `description` is the message of this rank's `blocks.Block`. The root makes the file.
    """
    rank, size = collectives.rank, collectives.size
    plan = blocks.plan(collectives.allgather(description))
    slabs = blocks.slabs(plan)
    failed: Exception | None = None
    if slabs is not None:
        try:
            pieces = encode_each(blocks.cut(block, rank, plan, slabs), size, "alltoall")
            block = blocks.merge(collectives.alltoall(pieces), rank, plan, slabs)
        except Exception as error:  # whatever it is, the others wait for this rank below
            failed = error
        plan = slabs
    created: list[FileKey] = []

    def create() -> FileKey:
        created.append(blocks.create(connector, plan))
        return created[0]

    def write() -> None:
        if failed is not None:
            raise failed
        blocks.write(connector, key, plan, rank, block)

    try:
        key: FileKey = collectives.bcast(attempt(create) if rank == root else None, root)
        collectives.allgather(attempt(write))
    except BaseException:
        for lost in created:
            connector.evict(lost)
        raise
    return key
