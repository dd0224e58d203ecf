"""Serialize instances with a key that, when it is compared, has all that is known of classes go."""

from __future__ import annotations

from typing import Any

from fsexchange.serialize import deserialize, dumps, instances, kinds

junk: list[Any] = []


class Key(str):
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        kinds.HOW.clear()
        instances.INSTANCES.clear()
        junk[:] = [tuple([n] * 4) for n in range(1000)]
        return False


class Plain:
    a = 0


plain = Plain()
plain.__dict__[Key("__reduce_ex__")] = 1
for n in range(200):
    for _ in range(2):  # once until it is known
        known = Plain()
        known.a = n
        assert deserialize(dumps(known)).a == n
    dumps(plain)
