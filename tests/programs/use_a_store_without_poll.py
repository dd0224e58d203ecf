"""Use a store where select(2) is all that there is, as gevent and eventlet have it."""

from __future__ import annotations

import select
import sys
import threading

for name in ("poll", "epoll"):
    delattr(select, name)

from fsexchange import FileConnector, Store, WaitTimeoutError, wait  # noqa: E402

path = sys.argv[1]
with Store(FileConnector(path)) as store:
    assert store.get(store.put([1, 2])) == [1, 2]
    first, second = store.future(), store.future()
    threading.Timer(0.05, first.set_result, ("set",)).start()
    assert first.result(30) == "set"
    try:
        second.result(0.05)
    except WaitTimeoutError as error:
        assert "is alive" in str(error), error
    else:
        raise AssertionError("nobody has set it")
    threading.Timer(0.05, second.set_result, ("set",)).start()
    assert wait([first, second], 30).not_done == set()
with FileConnector(path) as connector:
    assert connector.owned  # nothing holds a lock of the store before
