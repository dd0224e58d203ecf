"""Own a store as a process does that sees a network file system, and say whether it stays ours."""

from __future__ import annotations

import sys

from fsexchange import FileConnector
from fsexchange.filesystem import kinds

kinds._mounted_kind = lambda path: "fuse.bindfs"
with FileConnector(sys.argv[1]) as owner:
    key = owner.put(b"content")
    print("ready", flush=True)
    sys.stdin.read()
    assert owner.get(key) == b"content"
