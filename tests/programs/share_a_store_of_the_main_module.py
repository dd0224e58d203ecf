"""A script with a default store at its top: children that import it make one of their own."""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

from fsexchange import Store

store = Store()
store.put("content")


def where() -> None:
    assert store.connector.owned
    print(store.connector.store_dir, flush=True)


if __name__ == "__main__":
    context: Any = multiprocessing.get_context(sys.argv[1])
    child = context.Process(target=where)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert os.path.exists(store.connector.store_dir)
