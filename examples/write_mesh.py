"""Leave an array for a script that starts hours later, under a name: see read_mesh.py.

python examples/write_mesh.py /scratch/me/store
"""

import sys

import numpy as np

from fsexchange import Store

store = Store(sys.argv[1], clear=False)  # kept when this script ends

x, y = np.meshgrid(np.linspace(0, 1, 1000), np.linspace(0, 1, 1000))
store.put({"x": x, "y": y, "unit": "m"}, name="mesh/fine")
store.put({"x": x[::10, ::10], "y": y[::10, ::10], "unit": "m"}, name="mesh/coarse")
print(f"named in {sys.argv[1]}:", ", ".join(sorted(store.names)))
