"""End while one future with a callback is set, and another one is not."""

from __future__ import annotations

import sys

from fsexchange import Store

store = Store(sys.argv[1])
done, never = store.future(), store.future()
for future in done, never:
    future.add_done_callback(lambda future: print("called with", future.result()))
done.set_result(1)
if sys.argv[2] == "exit":
    sys.exit(0)
if sys.argv[2] == "raise":
    raise LookupError
