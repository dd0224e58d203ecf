"""Offload: what multiprocessing sends between processes goes through files while it is on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.default import new_path
from fsexchange.connector.keys import FileKey
from fsexchange.errors import MissingObjectError, StoreError
from fsexchange.pools.sizes import nbytes_of
from fsexchange.pools.task import attached, evict
from fsexchange.serialize import deserialize, serialize
from fsexchange.store.store import Store

# How multiprocessing reduces objects, by type. It has a function to add to it, none to remove.
_reducers: dict[type, Callable[[Any], Any]] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]


class _Offloading(NamedTuple):
    """Where arrays go, and from how many bytes on."""

    config: str
    threshold: int

    def install(self) -> None:
        ForkingPickler.register(np.ndarray, self.reduce_array)
        for kind in _kinds_of_process():
            ForkingPickler.register(kind, self.reduce_process)

    def reduce_array(self, array: np.ndarray[Any, Any]) -> Any:
        if array.nbytes >= self.threshold and not array.dtype.hasobject:
            try:
                key = attached(self.config).put(serialize(array))
                return _receive, (self, tuple(key))
            except StoreError:
                pass  # full, or its user has left the `with`: as without it
        return array.__reduce__()

    def reduce_process(self, process: Any) -> Any:
        function, args, *state = process.__reduce_ex__(2)
        return _receive_process, (self, function, args), *state


def _kinds_of_process() -> list[Any]:
    """Return the classes of processes: children that get a pickle are told by it.

    Forked ones have it all. `multiprocessing.Process` is also a class of those that are spawned,
    and so are its users' subclasses: a reducer is for one exact class.
    """
    kinds: list[Any] = [BaseProcess]
    for kind in kinds:
        kinds += [each for each in kind.__subclasses__() if each not in kinds]
    return kinds


def _receive(offloading: _Offloading, key: tuple[Any, ...]) -> Any:
    """Return an array that was sent to this process, and remove its file."""
    connector = attached(offloading.config)
    found = FileKey(*key)
    data = connector.get(found)
    if data is None:
        path = connector.path(found)
        raise MissingObjectError(
            f"{path}, an array that was sent to this process, is gone", path=path
        )
    evict(connector, [found])
    return deserialize(data)


def _receive_process(offloading: _Offloading, function: Callable[..., Any], args: Any) -> Any:
    """Make the object of this process, which from now on sends its arrays by files, too."""
    offloading.install()
    return function(*args)


@contextlib.contextmanager
def offload(
    threshold: int | str = "1M", store: Store | str | os.PathLike[str] | None = None
) -> Iterator[None]:
    """While this is on, multiprocessing sends large arrays by files.

    That is what goes to and comes from the workers of a `Pool`, the arguments of a `Process`, and
    what is put into a `Queue` or sent through a `Pipe`, between this process and the children that
    it starts meanwhile. The receiver maps the file and removes it; its array is its own, and
    writable. Arrays of a subclass or of Python objects, and all other objects, go as before, and so
    does an array for which the file system has no room, or that is sent by a spawned process of a
    class that was defined meanwhile.

    Leave it when everything has been received: the files that are still there go with it.

    Parameters
    ----------
    threshold:
        Arrays of so many bytes or more go by files: a number, or a text such as "64K" or "1M".
    store:
        As for `StoreExecutor`.

    >>> from multiprocessing import Pool
    >>> with offload(), Pool(2) as pool:
    ...     [len(array) for array in pool.map(np.ones, [1_000_000, 2_000_000])]
    [1000000, 2000000]
    """
    nbytes = nbytes_of(threshold)
    beside = store.connector.store_dir if isinstance(store, Store) else store
    kinds = np.ndarray, *_kinds_of_process()
    with FileConnector(new_path(beside)) as connector:
        before = {kind: _reducers.get(kind) for kind in kinds}
        _Offloading(json.dumps(connector.config()), nbytes).install()
        try:
            yield
        finally:
            for kind, reducer in before.items():
                if reducer is None:
                    _reducers.pop(kind, None)
                else:
                    _reducers[kind] = reducer
