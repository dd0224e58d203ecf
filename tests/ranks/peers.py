"""Programs of others, by a communicator or by an Exchange: `peers.py PROGRAM WAY ARGUMENT...`.

tests/test_peers.py runs each by both, and compares what rank 0 prints. Nothing but `communicator`
knows of the Exchange.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import itertools
import re
import runpy
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mpi4py
import mpi4py.util.pkl5  # before the package's MPI is replaced, which this one keeps
import numpy as np
from mpi4py import MPI

from fsexchange.mpi import Exchange


@contextlib.contextmanager
def communicator(way: str) -> Iterator[Any]:
    """Yield what a program uses: MPI's own, an Exchange in its `with`, or one that ends alone."""
    if way == "comm":
        atexit.register(drain)
        yield MPI.COMM_WORLD
    elif way == "exchange":
        yield Exchange()
    else:
        with Exchange() as ex:
            yield ex


def drain() -> None:
    """Receive what others have sent to nobody, which MPICH 5 may end a job for.

    A pool of schwimmbad tells its workers a second time to end, when the interpreter does.
    """
    MPI.COMM_WORLD.Barrier()
    while MPI.COMM_WORLD.iprobe():
        MPI.COMM_WORLD.recv()


def digest(value: Any) -> str:
    data = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
    return hashlib.sha256(data).hexdigest()


# ---- programs: workers of a pool end inside it ---------------------------------------------------


def norm(task: tuple[int, Any]) -> dict[str, Any]:
    n, array = task
    return {"task": n, "norm": float(np.linalg.norm(array)), "array": array[: n * 1000] * 2}


def schwimmbad(comm: Any) -> None:
    """`MPIPool`: workers probe in upper case, receive tasks, and end by `sys.exit(0)`."""
    from schwimmbad import MPIPool

    with MPIPool(comm=comm) as pool:
        tasks = [(n, np.arange(n * 3000.0)) for n in range(40)]
        for result in pool.map(norm, tasks):
            print(result["task"], result["norm"], digest(result["array"]))
        print(pool.map(str, "abc"))


def log_probability(x: Any, data: Any) -> float:
    return float(-0.5 * np.sum((data - x) ** 2) / data.size)


def emcee(comm: Any) -> None:
    """A sampler on `MPIPool`, whose tasks carry 160 KB of data."""
    import emcee
    from schwimmbad import MPIPool

    with MPIPool(comm=comm) as pool:
        data = np.random.RandomState(1).normal(size=(5000, 4))
        start = np.random.RandomState(2).normal(size=(16, 4))
        state = emcee.State(start, random_state=np.random.RandomState(3).get_state())
        sampler = emcee.EnsembleSampler(16, 4, log_probability, args=[data], pool=pool)
        sampler.run_mcmc(state, 10)
        print(digest(sampler.get_chain()), sampler.acceptance_fraction.mean())


def log_likelihood(x: Any) -> float:
    return float(-0.5 * np.sum(x**2))


def log_prior(x: Any) -> float:
    return 0.0


def ptmcmc(comm: Any, folder: str) -> None:
    """Chains of PTMCMCSampler, which swap by `gather` and `scatter`; generators are scattered."""
    from PTMCMCSampler.PTMCMCSampler import PTSampler

    sampler = PTSampler(
        6, log_likelihood, log_prior, np.eye(6), comm=comm, outDir=folder, verbose=False, seed=5
    )
    sampler.sample(np.ones(6), 1000, burn=300, isave=500, covUpdate=300, thin=1)
    comm.barrier()
    if comm.Get_rank() == 0:
        for name in "chain_1.0.txt", "cov.npy":
            print(name, hashlib.sha256(Path(folder, name).read_bytes()).hexdigest())


def dlp_mpi(comm: Any) -> None:
    """Its `map_unordered` and `split_managed`: whoever is free gets the next index."""
    import dlp_mpi

    tasks = [(n, np.arange(n * 3000.0)) for n in range(40)]
    results = list(dlp_mpi.map_unordered(norm, tasks, comm=comm.Clone()))
    for result in sorted(results, key=lambda result: result["task"]):
        print(result["task"], result["norm"], digest(result["array"]))
    done = list(dlp_mpi.split_managed(range(1, 30), comm=comm.Clone(), progress_bar=False))
    everybodys = comm.gather(done)
    if comm.rank == 0:
        print(sorted(itertools.chain(*everybodys)))


# ---- mpi4py's own --------------------------------------------------------------------------------

DEMOS = [
    "helloworld.py",
    "sequential/test_seq.py",
    "mandelbrot/mandelbrot.py",
    "compute-pi/cpi-cco.py",
    "nxtval/nxtval-threads.py",
    "reductions/test_reductions.py",
    "threads/sendrecv.py",
]


class Standin:
    """The module `MPI` with another COMM_WORLD."""

    def __init__(self, world: Any) -> None:
        self.COMM_WORLD = world

    def __getattr__(self, name: str) -> Any:
        return getattr(MPI, name)


def script(path: Path, comm: Any, *results: str) -> None:
    """Run a script that takes `comm` for MPI's COMM_WORLD.

    Rank 0 prints for each rank its lines, but for times, and the variables `results`.
    """
    out = io.StringIO()
    sys.path.insert(0, str(path.parent))
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # no pictures
    sys.argv, sys.stdin = [str(path)], io.StringIO("1000\n0\n")
    names: dict[str, Any] = {}
    setattr(mpi4py, "MPI", Standin(comm))  # noqa: B010
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            names = runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:  # of unittest
        assert not end.code, out.getvalue()
    finally:
        setattr(mpi4py, "MPI", MPI)  # noqa: B010
    lines = [line for line in out.getvalue().splitlines() if not re.search("time|tasks|Ran", line)]
    found = {name: digest(names[name]) for name in results if names.get(name) is not None}
    everybodys = MPI.COMM_WORLD.gather([path.name, *lines, found])
    if everybodys is not None:
        print(*everybodys, sep="\n")


def demos(comm: Any, folder: str) -> None:
    for demo in DEMOS:
        script(Path(folder, demo), comm, "M")  # the Mandelbrot set


def tutorial(comm: Any, text: str, folder: str) -> None:
    """Run the programs in the text, but for files, windows, GPUs and spawned processes."""
    blocks = re.findall(r"::\n\n((?: {3,4}.*\n|\n)+)", Path(text).read_text())
    for n, block in enumerate(blocks):
        if "COMM_WORLD" in block and not re.search("File|Win|cupy|Spawn|>>>", block):
            path = Path(folder, f"{comm.rank}-{n}.py")
            path.write_text(textwrap.dedent(block))
            script(path, comm, "data", "recvbuf", "buf")


if __name__ == "__main__":
    program, way, *arguments = sys.argv[1:]
    with communicator(way) as comm_:
        globals()[program](comm_, *arguments)
