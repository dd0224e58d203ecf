"""Small objects that share a file, evicted by all ranks at a time: `packed.py NAME DIRECTORY`."""

from __future__ import annotations

import random

import numpy as np

from fsexchange import FileKey
from fsexchange.mpi import Exchange

from .common import base, comm, left_behind, rank, run, size


def racing_evictions() -> None:
    """None is lost, though the flags of neighbours lie in one page, and the file goes."""
    with Exchange(comm, base / "store") as ex:
        for n in range(30):
            count = 8 << (n % 6)
            contents = [bytes([k % 251]) * (k * 37 % 300) for k in range(count)]
            keys: list[FileKey] = comm.bcast(
                ex.connector.put_batch(contents) if rank == 0 else None
            )
            assert len({key.filename for key in keys}) == 1
            kept = set(keys[:: n % 5 + 2])
            mine = keys[rank::size]
            random.Random(n * size + rank).shuffle(mine)
            comm.Barrier()
            for key in mine:
                if key not in kept:
                    ex.connector.evict(key)
            comm.Barrier()
            wanted = [c if k in kept else None for k, c in zip(keys, contents, strict=True)]
            assert ex.connector.get_batch(keys) == wanted
            assert [ex.connector.get(key) for key in keys] == wanted
            assert [ex.connector.exists(key) for key in keys] == [key in kept for key in keys]
            comm.Barrier()
            ex.connector.evict_batch([key for key in mine if key in kept])
            assert not left_behind(ex), n


def read_by_all() -> None:
    """All ranks read at once what one rank has put, one by one and in batches, whole."""
    with Exchange(comm, base / "store") as ex:
        for n in range(20):
            root = n % size
            arrays = [np.full((3, 40), n + k) for k in range(500)]
            keys = None
            if rank == root:
                keys = ex.store.put_batch(arrays) + [ex.put(array) for array in arrays[:50]]
            keys = comm.bcast(keys, root)
            for got, array in zip(ex.store.get_batch(keys), arrays + arrays[:50], strict=True):
                assert got.dtype == array.dtype
                assert np.array_equal(got, array)
            assert np.array_equal(ex.get(keys[7]), arrays[7])
            comm.Barrier()
            if rank == root:
                ex.store.evict_batch(keys)
            comm.Barrier()
            packed = [key for key in keys if key.offset]
            assert ex.store.get_batch(packed, "gone") == ["gone"] * len(packed)


if __name__ == "__main__":
    run(globals())
