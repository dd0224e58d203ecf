"""Make a default store in a place that cannot be listed; then attach to one that cannot be read."""

from __future__ import annotations

import errno
import os
import sys

from fsexchange import Store, StoreError

base = sys.argv[1]
os.environ["FSEXCHANGE_DIR"] = f"{base}/place"
os.chmod(f"{base}/place", 0o300)
with Store() as store:
    assert store.get(store.put(1)) == 1
os.environ["FSEXCHANGE_STORE"] = f"{base}/store"
os.chmod(f"{base}/store", 0)
try:
    Store()
except StoreError as error:
    assert error.errno == errno.EACCES, error
    assert f"the store at {base}/store" in str(error), error
else:
    raise AssertionError("no error")
