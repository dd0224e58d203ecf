"""Get the objects of define_again.py, one after the other."""

from __future__ import annotations

import sys

from fsexchange import FileConnector, FileKey
from fsexchange.serialize import deserialize

connector = FileConnector(sys.argv[1])
for key in sys.argv[2:]:
    data = connector.get(FileKey.parse(key))
    assert data is not None
    print(deserialize(data).scaled())
