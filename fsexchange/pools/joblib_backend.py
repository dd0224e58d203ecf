"""The joblib backend "fsexchange": loky's workers, whose results come by files.

joblib itself passes large arguments by files, once for each array; it pickles results.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from joblib import register_parallel_backend
from joblib._parallel_backends import LokyBackend

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.default import new_path
from fsexchange.pools.sizes import nbytes_of
from fsexchange.pools.task import decode_result, encode_result
from fsexchange.store.store import Store


class _Returning(NamedTuple):
    """A batch of calls, whose results are returned as a message."""

    calls: Callable[[], Any]
    config: str
    threshold: int

    def __call__(self) -> Any:
        return encode_result(self.calls(), self.config, self.threshold)


class FsexchangeBackend(LokyBackend):  # type: ignore[misc]
    """Workers of loky, whose results of `threshold` bytes and more come by files.

    `store` and `threshold` are as for `StoreExecutor`. Each call of `Parallel` has a directory of
    its own, which goes when the call ends.
    """

    def __init__(
        self,
        *args: Any,
        threshold: int | str = "1M",
        store: Store | str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._threshold = nbytes_of(threshold)
        self._beside = store.connector.store_dir if isinstance(store, Store) else store
        self._connector: FileConnector | None = None

    def configure(self, *args: Any, **kwargs: Any) -> Any:
        workers = super().configure(*args, **kwargs)  # which may raise FallbackToBackend
        if self._connector is None:
            self._connector = FileConnector(new_path(self._beside))
            self._config = json.dumps(self._connector.config())
        return workers

    def submit(self, func: Callable[[], Any], callback: Any = None) -> Any:
        return super().submit(_Returning(func, self._config, self._threshold), callback)

    def retrieve_result_callback(self, future: Any) -> Any:
        assert self._connector is not None
        return decode_result(super().retrieve_result_callback(future), self._connector)

    def terminate(self) -> None:
        super().terminate()
        if self._connector is not None:
            self._connector.close()
            self._connector = None


register_parallel_backend("fsexchange", FsexchangeBackend)
