"""Put and get an array of 1 GiB, as bytes or serialized: neither copies it in memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsexchange import FileConnector, FileKey
from fsexchange.serialize import deserialize, serialize

how, path = sys.argv[1:]
connector = FileConnector(path)


def put(array: npt.NDArray[np.float64]) -> FileKey:
    obj: Any = serialize(array) if how == "serialize" else array
    return connector.put(obj)


def get(key: FileKey) -> npt.NDArray[np.float64]:
    content = connector.get(key)
    assert content is not None
    array: npt.NDArray[np.float64] = (
        deserialize(content) if how == "serialize" else np.frombuffer(content)
    )
    return array


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def private() -> int:
    """Return the bytes of memory without the pages of files, which all readers share."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) << 10


warm = get(put(np.ones(1 << 18)))
array = np.ones(1 << 27)
limit = array.nbytes // 100
before = peak()
key = put(array)
assert peak() - before < limit, ("put", peak() - before)
before = peak()
mine, other = get(key), get(key)
assert peak() - before < limit, ("get", peak() - before)
assert mine.nbytes == 1 << 30
assert mine.flags.writeable
del array
before = private()
mine[: 1 << 10] = 7
mine[-1] = 7
assert private() - before < limit
assert other[0] == other[-1] == 1
third = get(key)
assert third[0] == third[-1] == 1
assert mine[0] == mine[-1] == 7
assert mine[1 << 20] == 1
