"""Run calls by joblib's backend of fsexchange: `use_joblib DIRECTORY`."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config

import fsexchange.pools  # for the backend


def double(array: Any, n: int) -> dict[str, Any]:
    return {"n": n, "list": [array * n, np.arange(3)]}


def fail() -> None:
    raise KeyError("a failure")


def main() -> None:
    assert fsexchange.pools
    base = sys.argv[1]
    array = np.ones(1 << 18)
    with parallel_config(backend="fsexchange", n_jobs=2, store=f"{base}/beside"):
        got = Parallel()(delayed(double)(array, n) for n in range(8))
        assert [each["n"] for each in got] == list(range(8))
        assert all((each["list"][0] == each["n"]).all() for each in got)
        assert all(each["list"][0].flags.writeable for each in got)
        assert not isinstance(got[1]["list"][0].base, np.memmap)
        assert os.listdir(base) == []
        for each in Parallel(return_as="generator")(delayed(double)(array, n) for n in range(3)):
            assert (each["list"][0] == each["n"]).all()
        try:
            Parallel()(delayed(fail)() for _ in range(3))
        except KeyError as error:
            assert "a failure" in str(error)
        else:
            raise AssertionError("no error")
        assert Parallel()(delayed(len)("x" * n) for n in range(100)) == list(range(100))
        with Parallel() as parallel:
            assert len(parallel(delayed(double)(array, n) for n in range(2))) == 2
            assert len(parallel(delayed(double)(array, n) for n in range(2))) == 2
    with parallel_config(backend="fsexchange", n_jobs=1, store=f"{base}/beside"):
        assert len(Parallel()(delayed(double)(array, n) for n in range(2))) == 2
    assert os.listdir(base) == []
    print("done")


if __name__ == "__main__":
    main()
