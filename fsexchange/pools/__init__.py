"""Executors whose tasks take and return large arrays: the data goes through files."""

from fsexchange.pools.executor import StoreExecutor

__all__ = ["StoreExecutor"]
