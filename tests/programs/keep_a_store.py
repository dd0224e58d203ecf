"""Make a store that is kept, and print the key of an object in it."""

from __future__ import annotations

import sys

from fsexchange import FileConnector

print(FileConnector(sys.argv[1], clear=False).put(b"for hours"))
