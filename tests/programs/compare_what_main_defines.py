"""Pass what this script defines to its own processes: a class is the same class there."""

from __future__ import annotations

import enum
import multiprocessing
from typing import Any

from fsexchange import Future, Ref, Store


class Colour(enum.Enum):
    RED = 1


class Mine(Exception):  # noqa: N818
    pass


def work(ref: Ref[Any], future: Future[None]) -> None:
    obj, colour, function = ref.get()
    try:
        raise Mine(isinstance(obj, Mine), colour is Colour.RED, function is helper)
    except Mine as error:
        future.set_exception(error)


def helper() -> None:
    pass


if __name__ == "__main__":
    for method in ("fork", "spawn"):
        with Store() as store:
            future: Future[None] = store.future()
            ref = store.ref((Mine(), Colour.RED, helper))
            context: Any = multiprocessing.get_context(method)
            child = context.Process(target=work, args=(ref, future))
            child.start()
            try:
                future.result(timeout=60)
            except Mine as error:
                print(method, *error.args)
            child.join()
