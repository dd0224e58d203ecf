"""Objects in a connector: stores, handles (`Ref`, `Future`, `Blank`), names, and waits."""

from fsexchange.store.blank import Blank
from fsexchange.store.failure import _load_failure
from fsexchange.store.future import Future
from fsexchange.store.leftovers import gc
from fsexchange.store.ref import Ref
from fsexchange.store.store import Store, _attach
from fsexchange.store.waiting import as_completed, wait

__all__ = ["Blank", "Future", "Ref", "Store", "as_completed", "gc", "wait"]

# Stored pickles contain the names of these functions. These are names in this package, so that
# objects stay readable when a function moves to another module.
for _loader in (_attach, _load_failure):
    _loader.__module__ = __name__
