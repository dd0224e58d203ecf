"""Objects whose pickles name functions and classes of fsexchange.

Run at commit 54a3e84, the last one before the modules were sorted into packages, this program wrote
flat_modules.bin: `python flat_modules.py flat_modules.bin`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from fsexchange import FileKey, KeyExistsError, Store
from fsexchange.serialize import deserialize, dumps


class OfAScript:
    colour = "red"


def written() -> dict[str, Any]:
    array = np.arange(100.0)
    return {
        "array": array,
        "strided": np.arange(200.0)[::2],
        "masked": np.ma.MaskedArray(np.arange(100.0), mask=array % 3 == 0, fill_value=-1),
        "record": np.rec.array([(1, "a")] * 50, dtype="i4,U3"),
        "memoryview": np.arange(100, dtype="i4").data,
        "key": FileKey("00c0ffee00c0ffee/7", 1024),
        "error": KeyExistsError("set already", path="/scratch/x"),
    }


if __name__ == "__main__":
    with Store() as store:
        future = store.future()
        future.set_exception(ValueError("diverged at step 9"))
        data = store.connector.get(future.ref.key)
        assert data is not None
        more = {"failure": deserialize(data), "class": OfAScript}
    Path(sys.argv[1]).write_bytes(dumps({**written(), **more}))
