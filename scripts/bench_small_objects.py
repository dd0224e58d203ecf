"""Measure dumps and loads of small objects beside pickle's, in turn; prints JSON.

A script, so that some of what it measures is of a class of `__main__`.
"""

import dataclasses
import gc
import json
import pickle
import time

import numpy as np

from benchmarks.kinds import Point
from fsexchange.serialize import deserialize, dumps

LOOP, ROUNDS = 1000, 41


@dataclasses.dataclass
class OfScript:
    x: float
    y: float
    name: str


OBJECTS = {
    "None": None,
    "int": 12345,
    "float": 1.5,
    "str of 5": "hello",
    "str of 4 KiB": "x" * 4096,
    "bytes of 4 KiB": b"x" * 4096,
    "tuple of 3": (1, 2.5, "a"),
    "dict of 3": {"a": 1, "b": 2.5, "c": "text"},
    "dict of 4 KiB": {f"key {n}": n * 1.5 for n in range(200)},
    "dataclass of a module": Point(1.5, 2.5, "a"),
    "dataclass of the script": OfScript(1.5, 2.5, "a"),
    "10 dataclasses of the script": [OfScript(n, 2.5, "a") for n in range(10)],
    "function": json.dumps,
    "array of 3": np.arange(3.0),
    "array of 1 KiB": np.arange(128.0),
    "dict of arrays of 3": {name: np.arange(3.0) for name in "abcd"},
    "dict of arrays of 1 KiB": {name: np.arange(128.0) for name in "abcd"},
    "scalar of numpy": np.float64(1.5),
}


def seconds(function, argument):
    start = time.perf_counter()
    for _ in range(LOOP):
        function(argument)
    return (time.perf_counter() - start) / LOOP


def main():
    gc.disable()
    found = {}
    for name, obj in OBJECTS.items():
        ours, theirs = dumps(obj), pickle.dumps(obj, 5)
        works = {
            "dumps": (dumps, obj),
            "pickle.dumps": (lambda obj: pickle.dumps(obj, 5), obj),
            "deserialize": (deserialize, ours),
            "pickle.loads": (pickle.loads, theirs),
        }
        figures = found[name] = {work: [] for work in works}
        for _ in range(ROUNDS):
            for work, (function, argument) in works.items():
                figures[work].append(seconds(function, argument))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
