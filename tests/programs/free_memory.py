"""Print the bytes of memory that this process can take."""

from __future__ import annotations

from fsexchange.filesystem.capacity import free_memory

print(free_memory())
