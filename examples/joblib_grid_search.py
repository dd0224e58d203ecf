"""Search the parameters of a scikit-learn model in parallel, by joblib's backend of fsexchange.

python examples/joblib_grid_search.py

The search is that of scikit-learn's tutorial; only the backend is named. What the workers return
comes by files. That is little in a search, so the example then has workers return large arrays.
"""

import time

import numpy as np
from joblib import Parallel, delayed, parallel_config
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import fsexchange.pools  # noqa: F401  for the backend


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).random(4 << 20)


if __name__ == "__main__":
    data, target = load_digits(return_X_y=True)
    for backend in ("loky", "fsexchange"):
        with parallel_config(backend=backend, n_jobs=2):
            search = GridSearchCV(SVC(), {"C": [0.1, 1, 10]}, cv=3)
            search.fit(data[::9], target[::9])  # now the workers have imported all that they need
            start = time.perf_counter()
            search.fit(data, target)
            middle = time.perf_counter()
            arrays = Parallel()(delayed(noise)(n) for n in range(8))
            end = time.perf_counter()
        assert len(arrays) == 8
        print(f"{backend}: best C {search.best_params_['C']}, {middle - start:.3f} s")
        print(f"{backend}: 8 arrays of 32 MiB, {end - middle:.3f} s")
