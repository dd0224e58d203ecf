"""One array of all ranks' blocks, against numpy's own: `blocks.py NAME DIRECTORY`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from fsexchange import MissingObjectError, RemoteError, Store
from fsexchange.mpi import Exchange

from .common import base, comm, left_behind, raised_everywhere, raises, rank, run, size

Array = npt.NDArray[Any]
point = np.dtype([("x", "f8"), ("name", "S3"), ("at", "i4", (2,))])


def blocks() -> Iterator[tuple[str, list[Array], int]]:
    """Yield what it is, the blocks of all ranks, and the axis they go along."""
    for dtype in ("f8", ">i2", "?", "c16", "M8[us]", "S5", "U3", point):
        kind = np.dtype(dtype)
        for name, shapes, axis in (
            ("rows", [(n + 1, 3, 2) for n in range(size)], 0),
            ("columns", [(3, 2 * n + 1) for n in range(size)], 1),
            ("middle", [(2, n % 3, 700) for n in range(size)], -2),
            ("vectors", [(1000 * n,) for n in range(size)], 0),
            ("nothing", [(0, 5)] * size, 0),
            ("long rows", [(2, 20_000)] * size, -1),
        ):
            made: list[Array] = []
            for n, shape in enumerate(shapes):
                nbytes = int(np.prod(shape)) * kind.itemsize
                data = np.resize(np.arange(1, 30 + n, dtype="u1") % 2, nbytes)
                made.append(np.ndarray(shape, kind, buffer=data.tobytes()))
            yield f"{kind} {name}", made, axis
            if kind == "f8":
                yield f"{name}, Fortran", [np.asfortranarray(block) for block in made], axis
                strided = [np.repeat(block, 2, axis=-1)[..., ::2] for block in made]
                yield f"{name}, strided", strided, axis
                mixed = [np.asfortranarray(b) if n % 2 else b for n, b in enumerate(made)]
                yield f"{name}, mixed", mixed, axis


def like_concatenate() -> None:
    with Exchange(comm, base / "store") as ex:
        for name, parts, axis in blocks():
            whole = np.concatenate(parts, axis)
            got = ex.assemble(parts[rank], axis)
            assert got.dtype == parts[0].dtype, name  # numpy makes it native
            assert got.shape == whole.shape, name
            assert got.flags.writeable
            assert (got == whole).all(), name
            if "Fortran" in name:
                assert got.flags.f_contiguous
            if got.size:
                got.flat[0] = got.flat[-1]  # the caller's own
            key = ex.put_blocks(parts[rank], axis)
            assert len(set(comm.allgather(key))) == 1
            assert (ex.get(key) == whole).all(), name
            if rank == 0:
                assert (np.load(ex.connector.path(key)) == whole).all(), name
                mapped = np.load(ex.connector.path(key), mmap_mode="r")
                assert mapped.flags.aligned
            comm.Barrier()
            if rank == size - 1:
                ex.evict(key)
        assert left_behind(ex) == []
        assert ex.assemble([rank]).tolist() == list(range(size))  # whatever makes an array


def decompositions() -> None:
    """Blocks along several axes, in any order of ranks, uneven, and some of them empty."""
    rng = np.random.default_rng(7)
    with Exchange(comm, base / "store") as ex:
        for shape, along in (((7, 9), (2, 2)), ((40, 30, 20), (2, 1, 2)), ((600, 801), (1, 4))):
            whole = np.arange(np.prod(shape), dtype="f4").reshape(shape)
            cuts = [
                np.linspace(0, length, parts + 1).astype(int)
                for length, parts in zip(shape, along, strict=True)
            ]
            boxes = [
                [slice(c[n], c[n + 1]) for c, n in zip(cuts, place, strict=True)]
                for place in np.ndindex(*along)
            ]
            # More or fewer ranks than boxes: some have nothing, or a rank has what others lack.
            order = rng.permutation(max(size, len(boxes)))
            if size < len(boxes):
                boxes = [[slice(0, length) for length in shape]]
            nothing = [slice(0, 0)] * len(shape)
            boxes += [nothing] * (len(order) - len(boxes))
            boxes = [boxes[n] for n in order] if size >= len(order) else boxes
            box = boxes[rank]
            for block in (whole[tuple(box)], np.asfortranarray(whole[tuple(box)])):
                offset = [s.start for s in box]
                got = ex.assemble(block, offset=offset, shape=shape)
                assert (got == whole).all()
        assert left_behind(ex) == []


def mismatches() -> None:
    """The same error on all ranks, or its own on the one that has no block; then all works."""
    last, odd = size - 1, rank == size - 1
    with Exchange(comm, base / "store") as ex:
        if size > 1:
            for name, block, options in (
                ("dtype", np.zeros(3, "f4" if odd else "f8"), {}),
                ("dtype", np.zeros(3, ">f8" if odd else "<f8"), {}),
                ("number of axes", np.zeros((3, 1) if odd else 3), {}),
                ("axis", np.zeros((2, 2)), {"axis": int(odd)}),
                ("more than axis 0", np.zeros((2, 3 if odd else 2)), {}),
                ("more than axis 1", np.zeros((3 if odd else 2, 2)), {"axis": 1}),
                ("shape of the whole", np.zeros(1), {"offset": [rank], "shape": [size + odd]}),
                ("overlap", np.zeros(1), {"offset": [min(rank, last - 1)], "shape": [size]}),
                ("fill", np.zeros(1), {"offset": [rank], "shape": [size + 1]}),
                (
                    "shape of the whole",
                    np.zeros(1),
                    {} if odd else {"offset": [rank], "shape": [size]},
                ),
            ):
                for verb in (ex.assemble, ex.put_blocks):
                    message = raised_everywhere(ValueError, partial(verb, block, **options))
                    assert name in message
                    assert "rank" in message or name == "fill"
        wrong: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
            (TypeError, "Python objects", np.array([None]), {}),
            (TypeError, "mask", np.ma.zeros(3), {}),
            (ValueError, "without axes", np.array(3.0), {}),
            (ValueError, "axis is 1", np.zeros(3), {"axis": 1}),
            (ValueError, "come together", np.zeros(3), {"offset": [0]}),
            (ValueError, "not inside", np.zeros(3), {"offset": [-1], "shape": [9]}),
            (ValueError, "not inside", np.zeros(3), {"offset": [7], "shape": [9]}),
            (ValueError, "its offset 2", np.zeros(3), {"offset": [0, 0], "shape": [9]}),
        ]
        for kind, name, block, options in wrong:
            mine = block if odd else np.zeros(3)
            for verb in (ex.assemble, ex.put_blocks):
                call = partial(verb, mine, **(options if odd else {}))
                assert name in str(raises(kind if odd else RemoteError, call))
        assert left_behind(ex) == []
        assert (ex.assemble(np.full(2, rank)) == np.repeat(range(size), 2)).all()


def of_many_pages() -> None:
    """Across the pages and the calls that one write is made of."""
    with Exchange(comm, base / "store") as ex:
        mine = np.full((25 << 20) // size + rank, rank, "u1")
        got = ex.assemble(mine)
        assert np.array_equal(np.unique(got, return_counts=True)[1], comm.allgather(len(mine)))
        tall = ex.assemble(np.full((1_000_000, rank + 1), rank, "f4"), axis=1)
        assert (tall[-1] == np.repeat(range(size), range(1, size + 1))).all()
        assert (tall[0] == tall[-1]).all()
        assert tall.flags.c_contiguous
        deep = np.full((3, 700, 500), rank, "f8")  # pieces of each of the first axis
        deep[...] += np.arange(3)[:, None, None] + np.arange(700)[:, None] / 1000
        for axis in (1, 2):
            whole = ex.assemble(deep, axis)
            assert np.array_equal(whole, np.concatenate(comm.allgather(deep), axis))
        key = ex.put_blocks(mine)
        part = ex.get(key)[10:20]
        assert (part == 0).all()
        ex.barrier()
        if rank == 0:
            ex.evict(key)
        ex.barrier()
        deadline = time.monotonic() + 60  # a client may know the name of what another removed
        while ex.connector.directory.policy.network and ex.store.exists(key):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        raises(MissingObjectError, lambda: ex.get(key))


def put_for_later() -> None:
    with Exchange(comm, base / "store", clear=False) as ex:
        grid = np.arange(10_000).reshape(100, 100)
        key = ex.put_blocks(np.array_split(grid, size)[rank])
        if rank == 0:
            ex.store.names["grid"] = key


def read_later() -> None:
    """By another job, of another number of ranks."""
    with Exchange(comm, base / "store") as ex:
        grid = ex.get("grid")
        mine = np.array_split(range(100), size)[rank]
        assert (grid[mine] == np.arange(10_000).reshape(100, 100)[mine]).all()
        with Store(base / "store") as store:
            assert store.get("grid").shape == (100, 100)


def memory_of_a_host() -> None:
    """Print how much memory the results of each way take on all ranks together, in copies."""
    nbytes = 64 << 20
    block = np.full(nbytes // 8, rank, "f8")
    result = size * nbytes
    with Exchange(comm, base / "store") as ex:
        for name, call in (
            ("fsexchange allgather", lambda: ex.allgather(block)),
            ("fsexchange assemble", lambda: ex.assemble(block)),
            ("mpi4py allgather", lambda: comm.allgather(block)),
        ):
            before = _host_memory()
            got: Any = call()
            parts = got if isinstance(got, list) else [got]
            assert sum(float(part.sum()) for part in parts) == block.size * sum(range(size))
            copies = (_host_memory() - before) / result
            if rank == 0:
                print(f"{name}: {copies:.2f} copies of the result")
            del got, parts


def _host_memory() -> int:
    """Return the PSS of all ranks together, in bytes."""
    comm.Barrier()
    pss: int = psutil.Process().memory_full_info().pss
    total: int = comm.allreduce(pss)
    return total


def pages_that_are_read() -> None:
    """Of a kept array, only those of the slice."""
    with Exchange(comm, base / "store") as ex:
        key = ex.put_blocks(np.zeros((64 << 20) // size, "u1"))
        resident = _resident(Path(ex.connector.path(key)))
        got = ex.get(key)
        assert int(got[5_000:9_000].sum()) == 0
        assert resident == 0
        assert 0 < _resident(Path(ex.connector.path(key))) <= 256 << 10


def _resident(path: Path) -> int:
    """Return how many bytes of a file this process has touched in its mappings of it."""
    maps = psutil.Process().memory_maps()
    return sum(found.rss for found in maps if found.path == os.fspath(path))


if __name__ == "__main__":
    run(globals())
