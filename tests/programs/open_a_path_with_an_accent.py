"""Say why a store cannot be opened where file names are ASCII."""

from __future__ import annotations

from fsexchange import FileConnector

try:
    FileConnector("/dev/shm/résultats")
except Exception as error:
    print(type(error).__name__, ascii(str(error)).replace("\\\\", "\\").strip('"'))
