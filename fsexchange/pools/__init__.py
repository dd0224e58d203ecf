"""Pools: the large arrays of tasks and results go through files, and the engine stays."""

from fsexchange.pools.executor import StoreExecutor
from fsexchange.pools.offload import offload

__all__ = ["StoreExecutor", "offload"]
