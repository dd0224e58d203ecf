"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re
from operator import index

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def nbytes_of(size: int | str) -> int:
    """Return the bytes of a number, or of a text such as "64K", "1M" or "1.5 GiB".

    >>> nbytes_of("64K"), nbytes_of("1.5 GiB")
    (65536, 1610612736)
    """
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", size, re.IGNORECASE)
        nbytes = float(found[1]) * (1 << _UNITS[found[2].upper()]) if found else 0
    else:
        nbytes = index(size)
    if nbytes < 1:
        raise ValueError(f"{size!r} is no size: pass 1 byte or more, such as 1048576 or '1M'")
    return int(nbytes)
