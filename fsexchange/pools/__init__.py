"""Pools: the large arrays of tasks and results go through files, and the engine stays.

To import this registers the joblib backend "fsexchange", if joblib is there.
"""

import contextlib

from fsexchange.pools.executor import StoreExecutor
from fsexchange.pools.offload import offload

with contextlib.suppress(ModuleNotFoundError):
    import fsexchange.pools.joblib_backend  # noqa: F401  for its registration

__all__ = ["StoreExecutor", "offload"]
