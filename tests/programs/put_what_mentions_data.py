"""Put instances of classes whose methods mention what no other process should get."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import multiprocessing
import sys
import threading
from typing import Any

import numpy as np

from fsexchange import FileConnector, FileKey
from fsexchange.serialize import deserialize, serialize

lock = threading.Lock()
current: contextvars.ContextVar[int] = contextvars.ContextVar("current", default=3)
table = np.ones(1_000_000)
FACTOR = 7


class Locked:
    def add(self) -> int:
        with lock:
            return current.get()

    @functools.cached_property
    def cached(self) -> int:
        return FACTOR


class Lookup:
    def __init__(self, place: int) -> None:
        self.place = place

    def value(self) -> float:
        return float(table[self.place]) * FACTOR

    def factor(self) -> int:
        return twice(FACTOR)


def twice(number: int) -> int:
    return 2 * number


class Unsendable:
    held = threading.Lock()


@dataclasses.dataclass
class Point:
    x: int
    y: str


def check(store_dir: str, key: str) -> None:
    """In a child that runs the same script."""
    data = FileConnector(store_dir).get(FileKey.parse(key))
    assert data is not None
    locked, lookup, point, unsendable, apply = deserialize(data)
    assert (locked.add(), lookup.value(), point) == (3, 7, Point(1, "a"))
    kinds = (Locked, Lookup, Point, Unsendable)
    assert tuple(map(type, (locked, lookup, point, unsendable))) == kinds
    assert apply(4) == 8


def put(connector: FileConnector, obj: Any) -> str:
    return str(connector.put(serialize(obj)))


if __name__ == "__main__":
    connector = FileConnector(sys.argv[1])
    sendable = [Locked(), Lookup(5), Point(1, "a")]
    for obj in (*sendable, Unsendable()):
        assert sum(map(len, serialize(obj))) < 10_000
    key = put(connector, [*sendable, Unsendable(), lambda number: twice(number)])
    for method in ("fork", "spawn"):
        context: Any = multiprocessing.get_context(method)
        child = context.Process(target=check, args=(connector.store_dir, key))
        child.start()
        child.join()
        assert child.exitcode == 0
    print(put(connector, sendable), put(connector, Unsendable()), key)
