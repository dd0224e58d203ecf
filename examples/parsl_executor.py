"""Give large arrays to the tasks of Parsl without sending a copy to each.

python examples/parsl_executor.py [MiB]

Parsl's pool has the interface of `concurrent.futures`. In a `StoreExecutor` its tasks map one
file; on several machines pass a `store` that all of them mount.
"""

import sys
import tempfile
import time

import numpy as np
from parsl import Config, HighThroughputExecutor
from parsl.concurrent import ParslPoolExecutor
from parsl.providers import LocalProvider

from fsexchange.pools import StoreExecutor


def column_mean(data, n: int) -> float:
    return float(data["table"][:, n].mean())


if __name__ == "__main__":
    nbytes = int(sys.argv[1] if len(sys.argv) > 1 else 64) << 20
    data = {"table": np.arange(nbytes // 8, dtype="f8").reshape(-1, 8)}
    workers = HighThroughputExecutor(
        max_workers_per_node=2,
        address="127.0.0.1",
        encrypted=False,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    with tempfile.TemporaryDirectory() as run_dir:
        config = Config(executors=[workers], run_dir=run_dir, usage_tracking=0)
        with ParslPoolExecutor(config) as executor, StoreExecutor(executor) as store_executor:
            for name, each in (("without", executor), ("with StoreExecutor", store_executor)):
                each.submit(abs, 1).result()
                start = time.perf_counter()
                tasks = [each.submit(column_mean, data, n) for n in range(8)]
                means = [task.result() for task in tasks]
                print(f"{name}: {time.perf_counter() - start:.3f} s")
                assert np.array_equal(np.diff(means), np.ones(7))
