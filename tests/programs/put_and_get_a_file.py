"""Put a .npy file beside a store, and get it again; with `shared` no block is copied."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from fsexchange import Store

base = Path(sys.argv[1])


def free() -> int:
    os.sync()
    status = os.statvfs(base)
    return status.f_bavail * status.f_frsize


with Store(base / "store") as store:
    np.save(base / "x.npy", np.arange(1_000_000 if "shared" not in sys.argv else 10_000_000))
    before = free()
    key = store.put_file(base / "x.npy")
    store.get_file(key, base / "y.npy")
    taken = before - free()
    assert np.load(base / "y.npy", mmap_mode="r")[-1] == store.get(key)[-1] > 0
    # 80 MB were put, and got.
    assert "shared" not in sys.argv or taken < 8_000_000, taken
    (base / "x.npy").write_bytes(b"")  # the store's own is another file
    assert store.get(key)[-1] > 0
