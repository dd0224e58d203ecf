"""Find an array by its name, left by a script that ended hours ago: see write_mesh.py.

python examples/read_mesh.py /scratch/me/store
"""

import sys

from fsexchange import Store

store = Store(sys.argv[1])
store.wait("mesh/coarse", timeout=60)  # or is still to come

for name in sorted(store.names):
    mesh = store.get(name)  # mapped: only the pages that are touched are read
    print(f"{name}: {mesh['x'].shape} points, to {mesh['x'].max()} {mesh['unit']}")

store.connector.close(clear=True)  # the last reader removes it all
