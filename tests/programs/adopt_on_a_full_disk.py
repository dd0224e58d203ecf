"""Adopt a dead owner's store, and clear a kept one, where the disk is full."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fsexchange import FileConnector, StoreError

small = Path(sys.argv[1])
for clear in True, False:
    if os.fork() == 0:
        connector = FileConnector(small / "store", clear=clear)
        while True:
            try:
                connector.put(bytes(4096))
            except StoreError:
                os._exit(0)
    assert os.wait()[1] == 0
    assert os.statvfs(small).f_bavail == 0
    heir = FileConnector(small / "store")
    assert heir.owned == clear
    heir.close(clear=True)
    assert not (small / "store").exists()
