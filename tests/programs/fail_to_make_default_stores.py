"""Try several times to make a default store on a full disk: nothing is left of them.

It is filled, or was made with too few inodes.
"""

from __future__ import annotations

import os
import sys

from fsexchange import Store, StoreError

base = os.environ["FSEXCHANGE_DIR"] = sys.argv[1]
with open(f"{base}/full", "wb") as file:
    try:
        while sys.argv[2] == "fill":
            os.write(file.fileno(), bytes(1 << 16))
    except OSError:
        pass
for _ in range(3):
    try:
        Store()
    except StoreError as error:
        assert "No space left" in str(error), error
    else:
        raise AssertionError("there is no room for it")
assert os.listdir(base) == ["full"]
