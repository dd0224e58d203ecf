"""Read segments that end early past the client's cache, as on a network file system."""

from __future__ import annotations

import os
import sys

from fsexchange import CorruptObjectError, FileConnector

with FileConnector(sys.argv[1]) as connector:
    hold = connector.directory
    hold._policy = hold.policy._replace(network=True)
    for end in (0, 100, 4096, 8192, 8193, 3 * 4096):  # some at the end of a page
        keys = connector.put_batch([b"%4d" % n * 1000 for n in range(20)])
        os.truncate(connector.path(keys[0]), end)
        for n, key in enumerate(keys):
            try:
                assert connector.get(key) == b"%4d" % n * 1000, "not whole"
                assert key.offset + key.nbytes <= end
            except CorruptObjectError:
                assert key.offset + key.nbytes > end
        try:
            connector.get_batch(keys)
            raise AssertionError("no error")
        except CorruptObjectError:
            pass
        os.unlink(connector.path(keys[0]))
    hold._policy = hold.policy._replace(network=False)
