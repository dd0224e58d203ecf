"""Make an array, and save it in a file, as any program may: python height.py FILE.npy"""

import sys

import numpy as np

np.save(sys.argv[1], np.random.default_rng(1).random((500, 500)))
