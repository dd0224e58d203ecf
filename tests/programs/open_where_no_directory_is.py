"""Say why a relative path cannot be opened once the working directory is removed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from fsexchange import FileConnector, Store

os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
os.rmdir(sys.argv[1])
os.environ["FSEXCHANGE_DIR"] = "store"
attempts: list[Callable[[], object]] = [
    lambda: FileConnector("store"),
    lambda: Store(b"store"),  # type: ignore[arg-type]
    Store,
]
for attempt in attempts:
    try:
        attempt()
    except Exception as error:
        print(type(error).__name__, error)
