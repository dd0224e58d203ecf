"""Open a store, and print whether this process owns it; an owner keeps it."""

from __future__ import annotations

import sys

from fsexchange import FileConnector

connector = FileConnector(sys.argv[1])
print(connector.owned)
connector.close(clear=False)
