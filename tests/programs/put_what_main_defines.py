"""Put an object, a function and a class that this script defines, and print the key."""

from __future__ import annotations

import multiprocessing
import sys

import numpy as np
import numpy.typing as npt

from fsexchange import FileConnector
from fsexchange.serialize import serialize


class Mine:
    def __init__(self, array: npt.NDArray[np.float64]) -> None:
        self.array = array

    def total(self) -> float:
        return helper(self.array)


def helper(array: npt.NDArray[np.float64]) -> float:
    return float(array.sum())


def put() -> None:
    connector = FileConnector(sys.argv[1])
    print(connector.put(serialize([Mine(np.ones(1000)), helper, Mine])), flush=True)


if __name__ == "__main__":
    if sys.argv[2:] == ["in a spawned child"]:
        child = multiprocessing.get_context("spawn").Process(target=put)
        child.start()
        child.join()
    else:
        put()
