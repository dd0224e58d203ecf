"""Put an object whenever its script has changed what the class mentions; print the keys."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from fsexchange import FileConnector
from fsexchange.serialize import by_value, serialize

connector = FileConnector(sys.argv[1])


@dataclasses.dataclass
class Point:
    x: int

    def scaled(self) -> int:
        return scale(self.x)


def scale(number: int) -> int:
    return number * factor


factor = 2
made: list[Any] = []
define = by_value.define


def counted(obj: Any) -> Any:
    made.append(obj)
    return define(obj)


setattr(by_value, "define", counted)  # noqa: B010  (mypy knows that it is no variable)
for n in range(100):
    serialize([Point(n), Point(n + 1)])
assert made == [Point]
print(connector.put(serialize(Point(3))))
factor = 5
print(connector.put(serialize(Point(3))))


def scale(number: int) -> int:  # type: ignore[no-redef]  # noqa: F811
    return -number


print(connector.put(serialize(Point(3))))
