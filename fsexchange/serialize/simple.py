"""Simple objects: None, numbers, text, bytes, bytearrays, and tuples, lists and dicts of these.

They name no function or class and hold no array, so plain pickle does all that is needed. To see
this takes a tenth of the time of their pickle in C, but longer than it saves in Python. So where
there was no C compiler only a few values are looked at. What is not seen to be simple is pickled as
all else is. Not complex numbers, for which plain pickle asks `copyreg`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

_NUMBERS = frozenset({type(None), bool, float})
_SCALARS = frozenset({*_NUMBERS, int, str, bytes, bytearray})

# Those of one list that are looked at.
_MOST = 8

# Bytes of the pickle of a number, and of what is around a value.
_NUMBER, _AROUND = 16, 32


def is_simple_in_python(obj: Any, most: int, /) -> bool:
    """Return what `is_simple` returns; False also for what it would have to look at for long."""
    kind = type(obj)
    values: Iterable[Any]
    if type(kind) is not type:  # and it may have no hash
        return False
    if kind in _SCALARS:
        values = (obj,)
    elif (kind is not tuple and kind is not list and kind is not dict) or len(obj) > _MOST:
        return False
    else:
        values = (*obj, *obj.values()) if kind is dict else obj
    room = most - _AROUND
    for each in values:
        kind = type(each)
        if type(kind) is not type:
            return False
        if kind in _NUMBERS or (kind is int and each.bit_length() < 64):
            room -= _NUMBER
        elif kind is str:
            room -= _AROUND + (len(each) if each.isascii() else 4 * len(each))
        elif kind is bytes or kind is bytearray:
            room -= _AROUND + len(each)
        else:
            return False
    return room >= 0


def simple_pickle_in_python(obj: Any, most: int, /) -> bytes | None:
    """Return what `simple_pickle` returns, by the same look."""
    if (type(obj) is list or type(obj) is dict) and len(obj) <= _MOST:
        obj = obj.copy()  # which no other thread changes
    return pickle.dumps(obj, 5) if is_simple_in_python(obj, most) else None


try:
    from fsexchange.serialize._native import is_simple as is_simple
    from fsexchange.serialize._native import simple_pickle as simple_pickle
except ImportError:
    is_simple = is_simple_in_python
    simple_pickle = simple_pickle_in_python
