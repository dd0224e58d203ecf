"""Get instances of classes of another script: see put_what_mentions_data.py."""

from __future__ import annotations

import sys
from typing import Any

from fsexchange import CorruptObjectError, FileConnector, FileKey, SerializationError
from fsexchange.serialize import deserialize

connector = FileConnector(sys.argv[1])


def get(key: str) -> Any:
    data = connector.get(FileKey.parse(key))
    assert data is not None
    return data


sendable = get(sys.argv[2])
locked, lookup, point = deserialize(sendable)
print(locked.cached, lookup.place, lookup.factor(), point)
assert type(deserialize(sendable)[2]) is type(point)
for method in (locked.add, lookup.value):
    try:
        method()
    except NameError as error:
        print(error)
try:
    deserialize(get(sys.argv[3]))
except SerializationError as error:
    print(error)
# Whatever bit changes of what the object says of its script, behind a pickle of this length.
for place in range(20 + int.from_bytes(sendable[12:16], "little"), len(sendable)):
    damaged = bytearray(sendable)
    damaged[place] ^= 1 << place % 8
    try:
        deserialize(damaged)
    except CorruptObjectError:
        continue
    print("not noticed:", place)
