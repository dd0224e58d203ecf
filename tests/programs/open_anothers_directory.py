"""Open a directory of root's as another user: it is refused, and trusted it is still root's."""

from __future__ import annotations

import os
import sys

from fsexchange import FileConnector, StoreError, UntrustedDirectoryError

for store_id in (None, "00c0ffee00c0ffee"):
    try:
        FileConnector(sys.argv[1], store_id=store_id)
    except UntrustedDirectoryError as error:
        assert f"belongs to user 0, and you are {os.getuid()}" in str(error), error
        assert "chmod" not in str(error), error  # they cannot
    else:
        raise AssertionError("not refused")
try:
    FileConnector(sys.argv[1], trust_directory=True)
except StoreError as error:  # trusted, but still theirs
    assert "Permission denied" in str(error), error
