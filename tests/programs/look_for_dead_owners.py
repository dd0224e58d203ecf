"""Look again and again at the default stores in a directory, as whoever makes one there does."""

from __future__ import annotations

import sys

from fsexchange.connector.default import clear_dead

while True:
    clear_dead(sys.argv[1])
