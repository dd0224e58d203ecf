"""Give large arrays to the tasks of a Dask cluster without sending a copy to each.

python examples/dask_executor.py [MiB]

Dask's executor has the interface of `concurrent.futures`. In a `StoreExecutor` its tasks map one
file; on several machines pass a `store` that all of them mount.
"""

import sys
import time

import numpy as np
from distributed import Client, LocalCluster

from fsexchange.pools import StoreExecutor


def column_mean(data: dict[str, np.ndarray], n: int) -> float:
    return float(data["table"][:, n].mean())


if __name__ == "__main__":
    nbytes = int(sys.argv[1] if len(sys.argv) > 1 else 64) << 20
    data = {"table": np.arange(nbytes // 8, dtype="f8").reshape(-1, 8)}
    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        client.get_executor(pure=False) as executor,
        StoreExecutor(executor) as store_executor,
    ):
        for name, each in (("without", executor), ("with StoreExecutor", store_executor)):
            each.submit(abs, 1).result()
            start = time.perf_counter()
            tasks = [each.submit(column_mean, data, n) for n in range(8)]
            means = [task.result() for task in tasks]
            print(f"{name}: {time.perf_counter() - start:.3f} s")
            assert np.array_equal(np.diff(means), np.ones(7))
