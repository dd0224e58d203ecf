"""What random programs send: objects of any kind, from nothing to 1 MiB."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from .common import same


class Point:
    """Of a class of the script."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and same(self.x, other.x)


def content(seed: int) -> Any:
    """Return the object that a seed stands for, of any kind, from nothing to 1 MiB."""
    chance = random.Random(seed)
    n = int(2 ** chance.uniform(0, chance.choice([10, 10, 14, 17, 20])))
    array = np.arange(seed % 1000, seed % 1000 + n // 8)
    kinds: list[Any] = [
        None,
        seed,
        seed / 7,
        (seed, "task", None),
        {"seed": seed, "name": "é" * (seed % 20), "array": array},
        seed.to_bytes(8, "little") * (n // 8),
        bytearray([seed % 256]) * n,
        chr(97 + seed % 26) * n,
        array,
        array.astype("f4")[::2],
        np.asfortranarray(np.resize(array, (n // 64 + 1, 8))) if n >= 8 else np.empty((0, 3)),
        [array, seed, {"same": array}, np.full(n // 16, seed % 100, "f8")],
        Point(array if n > 100 else seed),
        list(range(n // 32)),
    ]
    return chance.choice(kinds)


def spoil(obj: Any) -> None:
    """Change what was sent, as a program may once the call has returned."""
    if isinstance(obj, np.ndarray):
        obj[...] = -1
    elif isinstance(obj, bytearray):
        obj[:] = bytes(len(obj))
    elif isinstance(obj, (list, dict)):
        for part in obj if isinstance(obj, list) else obj.values():
            spoil(part)
        obj.clear()
    elif isinstance(obj, Point):
        spoil(obj.x)
