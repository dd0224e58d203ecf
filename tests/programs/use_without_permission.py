"""Open a directory that is not writable, then use one that is not readable."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

from fsexchange import FileConnector, StoreError

store = f"{sys.argv[1]}/store"
os.chmod(store, 0o500)
for path in (store, f"{store}/below", f"{store}/below/below"):
    try:
        FileConnector(path)
    except StoreError as error:
        assert error.errno == errno.EACCES, error
        assert "Permission denied; check owner and mode" in str(error), error
        assert "(tmpfs)" in str(error), error
        assert store in error.path, error
    else:
        raise AssertionError("no error")
os.chmod(store, 0o700)
connector = FileConnector(store)
key = connector.put(b"x")
clone = FileConnector.from_config(connector.config())
verbs: list[Callable[..., Any]] = [clone.get, clone.exists, clone.evict, clone.wait]
# An unreadable directory is not a missing object.
for mode in (0o000, 0o600):
    os.chmod(store, mode)
    for verb in verbs:
        try:
            verb(key)
        except StoreError as error:
            assert error.errno == errno.EACCES, error
        else:
            raise AssertionError(verb)
os.chmod(store, 0o700)
assert clone.get(key) == b"x"
