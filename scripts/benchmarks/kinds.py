"""The kinds of objects that people pass around: one table, in which a kind has a row."""

import array
import dataclasses
import importlib
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .own_ways import (
    Astropy,
    Awkward,
    Feather,
    Jax,
    Netcdf,
    NumpyZip,
    Plain,
    Polars,
    Pyarrow,
    ScipySparse,
    Torch,
    Zarr,
)
from .peers import Numpy
from .words import MIB


class Kind(NamedTuple):
    name: str
    make: Callable[[int], Any]
    """Takes a length in bytes, at least 1 KiB."""
    own: type | None = None
    """The way of its own library."""
    libraries: tuple[str, ...] = ("numpy",)
    most: int = 64 * MIB
    """More bytes of such objects would be more Python objects than people pass around."""

    def nbytes(self, size):
        return min(size, self.most)


class Subclass(np.ndarray):
    """As numpy's guide to subclasses shows them, with a method to pickle its attributes."""

    def __reduce__(self):
        function, arguments, state = super().__reduce__()
        return function, arguments, (*state, self.unit)

    def __setstate__(self, state):
        super().__setstate__(state[:-1])
        self.unit = state[-1]


@dataclasses.dataclass
class Point:
    x: float
    y: float
    name: str


def numbers(nbytes):
    return np.arange(nbytes // 8) * 1.5


def of(dtype):
    """Return what makes arrays of a dtype."""
    size = np.dtype(dtype).itemsize
    return lambda nbytes: np.arange(nbytes // size).astype(dtype)


def structured(nbytes):
    made = np.zeros(nbytes // 16, [("a", "f8"), ("b", "i4"), ("c", "f4")])
    made["a"] = np.arange(len(made))
    return made


def subclass(nbytes):
    made = numbers(nbytes).view(Subclass)
    made.unit = "m"
    return made


def parts(nbytes):
    """Return the bytes of 64 values."""
    return [bytes([n]) * (nbytes // 64) for n in range(64)]


def arrays(nbytes):
    """Return a list of at most 100,000 arrays."""
    each = max(64, nbytes // 100_000 // 8 * 8)
    return [np.full(each // 8, n, "f8") for n in range(nbytes // each)]


def texts(nbytes):
    return [f"line {n:08} of some text that is too long to be inlined" for n in range(nbytes // 54)]


def pandas_frame(nbytes):
    pandas = importlib.import_module("pandas")
    return pandas.DataFrame({name: np.arange(nbytes // 32) * 1.5 for name in "abcd"})


def pandas_text(nbytes):
    pandas = importlib.import_module("pandas")
    return pandas.DataFrame({"text": pandas.array(texts(nbytes), dtype="str")})


def pandas_arrow(nbytes):
    return pandas_frame(nbytes).astype("float64[pyarrow]")


def pandas_categories(nbytes):
    pandas = importlib.import_module("pandas")
    codes = np.arange(nbytes) % 100
    return pandas.Series(pandas.Categorical.from_codes(codes, [f"name {n}" for n in range(100)]))


def pandas_index(nbytes):
    pandas = importlib.import_module("pandas")
    times = pandas.date_range("2026-01-01", periods=nbytes // 16, freq="s")
    return pandas.Series(np.arange(nbytes // 16) * 1.5, index=times)


def polars_frame(nbytes):
    polars = importlib.import_module("polars")
    return polars.DataFrame({name: np.arange(nbytes // 32) * 1.5 for name in "abcd"})


def polars_text(nbytes):
    return importlib.import_module("polars").DataFrame({"text": texts(nbytes)})


def polars_series(nbytes):
    return importlib.import_module("polars").Series("a", numbers(nbytes))


def table(nbytes):
    columns = {name: np.arange(nbytes // 32) * 1.5 for name in "abcd"}
    return importlib.import_module("pyarrow").table(columns)


def dataset(nbytes):
    xarray = importlib.import_module("xarray")
    side = nbytes // 16 // 8
    each = np.arange(8 * side, dtype="f8").reshape(8, side)
    data = {name: (("y", "x"), each + n) for n, name in enumerate("ab")}
    return xarray.Dataset(data, {"y": np.arange(8), "x": np.arange(side)})


def sparse(nbytes):
    rows = nbytes // 16
    data, columns = np.arange(rows) * 1.5, np.arange(rows, dtype="i4") % 1000
    starts = np.arange(rows + 1, dtype="i4")
    library = importlib.import_module("scipy.sparse")
    return library.csr_array((data, columns, starts), shape=(rows, 1000))


def awkward(nbytes):
    library = importlib.import_module("awkward")
    return library.unflatten(numbers(nbytes // 2), np.full(nbytes // 16, 1))


def quantity(nbytes):
    return numbers(nbytes) * importlib.import_module("astropy.units").m


def column(nbytes):
    kind = importlib.import_module("astropy.table").Column
    return kind(numbers(nbytes), name="c", unit="s")


def astropy_table(nbytes):
    kind = importlib.import_module("astropy.table").QTable
    return kind({"c": column(nbytes // 2), "q": quantity(nbytes // 2)})


def pint(nbytes):
    return importlib.import_module("pint").get_application_registry().Quantity(numbers(nbytes), "m")


def zarr(nbytes):
    library = importlib.import_module("zarr")
    length = nbytes // 8
    made = library.create_array(
        {}, shape=(length,), chunks=(max(1, length // 8),), dtype="f8", compressors=None
    )
    made[:] = numbers(nbytes)
    return made


def tensor(nbytes):
    return importlib.import_module("torch").from_numpy(numbers(nbytes))


def parameter(nbytes):
    return importlib.import_module("torch").nn.Parameter(tensor(nbytes))


def module(nbytes):
    nn = importlib.import_module("torch").nn
    width = max(1, int((nbytes / 8) ** 0.5))
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def state_dict(nbytes):
    return module(nbytes).state_dict()


def jax_array(nbytes):
    return importlib.import_module("jax").numpy.arange(nbytes // 4, dtype="f4")


KINDS = [
    *[Kind(f"array of {name}", of(name), Numpy) for name in ("f8", "?", "c16", "M8[s]", "U16")],
    Kind("array, Fortran order", lambda n: numbers(n).reshape(8, -1).T, Numpy),
    Kind("array, every other column", lambda n: np.ones((n // 64, 16))[:, ::2], Numpy),
    Kind("array, broadcast", lambda n: np.broadcast_to(np.arange(128.0), (n // 1024, 128)), Numpy),
    Kind("array, structured", structured, Numpy),
    Kind("array, masked", lambda n: np.ma.masked_less(np.arange(n // 9) * 1.5, 9)),
    Kind("array, subclass with __reduce__", subclass),
    Kind("array of text objects", lambda n: np.array(texts(n), "O"), most=4 * MIB),
    Kind("bytes", lambda n: b"x" * n, Plain),
    Kind("bytearray", bytearray, Plain),
    Kind("memoryview", lambda n: memoryview(bytearray(n)), libraries=("fsexchange",)),
    Kind("str", lambda n: "x" * n, Plain),
    Kind("array.array", lambda n: array.array("d", bytes(n)), Plain),
    Kind("BytesIO", lambda n: io.BytesIO(b"x" * n)),
    Kind(
        "dict of arrays",
        lambda n: dict(zip("abcd", numbers(n).reshape(4, -1), strict=True)),
        NumpyZip,
    ),
    Kind("dict of bytes", lambda n: dict(enumerate(parts(n)))),
    Kind("list of bytes", parts),
    Kind("list of 100,000 arrays", arrays),
    Kind("list of arrays of 64 B", lambda n: [*np.ones((n // 64, 8))], most=100_000 * 64),
    Kind("list of text", texts, most=4 * MIB),
    Kind("list of floats", lambda n: numbers(n).tolist(), most=4 * MIB),
    Kind(
        "dict of dataclasses",
        lambda n: {i: Point(i, 2.5, ("a",)) for i in range(n // 32)},
        most=MIB,
    ),
    Kind("pandas, numpy blocks", pandas_frame, Feather, ("pandas", "pyarrow")),
    Kind("pandas, text", pandas_text, Feather, ("pandas", "pyarrow")),
    Kind("pandas, Arrow columns", pandas_arrow, Feather, ("pandas", "pyarrow")),
    Kind("pandas, categories", pandas_categories, None, ("pandas",)),
    Kind("pandas, index of times", pandas_index, None, ("pandas",)),
    Kind("polars, numbers", polars_frame, Polars, ("polars", "pyarrow")),
    Kind("polars, text", polars_text, Polars, ("polars", "pyarrow")),
    Kind("polars, Series", polars_series, None, ("polars", "pyarrow")),
    Kind("pyarrow, Table", table, Pyarrow, ("pyarrow",)),
    Kind(
        "pyarrow, slice of a Table",
        lambda n: table(8 * n).slice(n // 32, n // 32),
        Pyarrow,
        ("pyarrow",),
    ),
    Kind("pyarrow, Array", lambda n: table(4 * n)["a"].chunk(0), None, ("pyarrow",)),
    Kind("xarray, DataArray", lambda n: dataset(2 * n)["a"], Netcdf, ("xarray", "netCDF4")),
    Kind("xarray, Dataset", dataset, Netcdf, ("xarray", "netCDF4")),
    Kind("scipy.sparse", sparse, ScipySparse, ("scipy",)),
    Kind("awkward", awkward, Awkward, ("awkward", "pyarrow")),
    Kind("astropy, Quantity", quantity, None, ("astropy",)),
    Kind("astropy, Column", column, None, ("astropy",)),
    Kind("astropy, QTable", astropy_table, Astropy, ("astropy",)),
    Kind("pint", pint, None, ("pint",)),
    Kind("zarr, in memory", zarr, Zarr, ("zarr",)),
    Kind("torch, tensor", tensor, Torch, ("torch",)),
    Kind("torch, Parameter", parameter, Torch, ("torch",)),
    Kind("torch, Module", module, Torch, ("torch",)),
    Kind("torch, state_dict", state_dict, Torch, ("torch",)),
    Kind("JAX", jax_array, Jax, ("jax",)),
]
NAMED = {kind.name: kind for kind in KINDS}
