"""Open a store that is kept, and clear it, as another process does at the same time."""

from __future__ import annotations

import sys

from fsexchange import FileConnector

FileConnector(sys.argv[1], clear=False).close(clear=True)
