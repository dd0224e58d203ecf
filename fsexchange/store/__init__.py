"""Objects in a connector: stores, handles, futures and names."""

from fsexchange.store.future import Future
from fsexchange.store.ref import Ref
from fsexchange.store.store import Store

__all__ = ["Future", "Ref", "Store"]
