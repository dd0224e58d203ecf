"""Define functions of this script again and again, as a notebook does; print how many are left."""

from __future__ import annotations

import gc
import weakref

from fsexchange.serialize import dumps

defined = []
for _ in range(100):

    def work(x: int, table: bytes = bytes(1 << 16)) -> int:
        return table[x]

    dumps(work)
    dumps([work, len])
    defined.append(weakref.ref(work))
gc.collect()
print(sum([each() is not None for each in defined]))
