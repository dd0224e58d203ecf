"""Get an object by way of a host's copies: `get_a_copy.py STORE KEY BASE NAME`.

It prints the copies that there are then, and the object's length and last bytes.
"""

from __future__ import annotations

import os
import sys

from fsexchange import FileConnector, FileKey
from fsexchange.connector import hostcache
from fsexchange.connector.hostcache import HostCache

store_dir, key, hostcache.BASE, name = sys.argv[1:]
connector = FileConnector(store_dir)
connector.directory._policy = connector.directory.policy._replace(mappable=False)
connector.evict(connector.put(b"warm up"))
copies = HostCache(store_dir, name)
connector.keep_copies(copies)
os.access("/fsexchange-begin", 0)
data = connector.get(FileKey.parse(key)) or b""
os.access("/fsexchange-end", 0)
there = os.path.isdir(copies.path) and any(
    "-" in n and n[0] != "." for n in os.listdir(copies.path)
)
print(len(data), bytes(data[-4:]).decode(), "copied" if there else "read", flush=True)
copies.close()
connector.close()
