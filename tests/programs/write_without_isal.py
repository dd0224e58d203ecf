"""Print objects in hexadecimal, as a machine writes them for which isal has no wheel."""

from __future__ import annotations

import sys

sys.modules["isal"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402

from fsexchange.serialize import crc, dumps  # noqa: E402

assert crc.crc32.__module__ != "isal.isal_zlib"
for obj in (12, "x" * 5000, {"a": [1, "text"]}, np.arange(6.0), [np.arange(2000.0)]):
    print(dumps(obj).hex(), dumps(obj, checksum=True).hex())
