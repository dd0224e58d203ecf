"""A forked child writes to a directory of its own, and clears nothing when it ends."""

from __future__ import annotations

import os
import sys

from fsexchange import FileConnector, FileKey

connector = FileConnector(sys.argv[1])
key = connector.put(b"parent's")
promise = connector.new_key()
read, write = os.pipe()
if not os.fork():
    mine = connector.put(b"child's")
    assert mine.filename.split("/")[0] != key.filename.split("/")[0]
    assert connector.new_key().filename.split("/")[0] != promise.filename.split("/")[0]
    assert connector.get(key) == b"parent's"
    assert not connector.owned
    os.write(write, str(mine).encode())
    connector.close()
    sys.exit()  # runs the exit handlers it inherited
assert os.wait()[1] == 0
os.close(write)
assert connector.get(FileKey.parse(os.read(read, 100).decode())) == b"child's"
assert connector.get(key) == b"parent's"
assert connector.owned
print(connector)
