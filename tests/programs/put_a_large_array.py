"""Put an array of 1 GiB into a store, and print its key."""

from __future__ import annotations

import sys

import numpy as np

from fsexchange import Store

print(Store(sys.argv[1]).put(np.zeros(1 << 27)))
