"""Send an object of a class before and after its script defines the class again."""

import dataclasses

from fsexchange.serialize import deserialize, dumps


@dataclasses.dataclass
class Point:
    x: int


old = Point
for _ in range(3):
    assert deserialize(dumps(Point(3))) == Point(3)


@dataclasses.dataclass
class Point:  # type: ignore[no-redef]
    x: int
    y: int = 4


for _ in range(3):
    assert deserialize(dumps(Point(3))).y == 4
    got = deserialize(dumps(old(3)))  # by value, as it has no name any more
    assert (type(got).__name__, vars(got)) == ("Point", {"x": 3})
