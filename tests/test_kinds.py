"""Objects of other libraries come back equal and of their types, and their data is not copied."""

from __future__ import annotations

import array
import copyreg
import importlib.util
import io
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fsexchange.serialize import deserialize, dumps, serialize

from .processes import python


def sent(obj: Any, *, copied: int = 20_000) -> Any:
    """Return what a reader gets; only this many bytes are pickled, the rest is buffers."""
    frames = serialize({"alone": obj})
    pickled = [len(frame) for frame in frames if type(frame) is bytes and len(frame) < 1 << 16]
    assert sum(pickled) < copied
    return deserialize(bytearray(b"".join(frames)))["alone"]


def address(obj: Any) -> int:
    return int(np.asarray(obj).__array_interface__["data"][0])


N = 100_000


@pytest.fixture(autouse=True, scope="module")
def _runtimes() -> None:
    """Start what polars and zarr keep open from their first use on."""
    if importlib.util.find_spec("polars"):
        polars = importlib.import_module("polars")
        polars.DataFrame({"a": [1]}).lazy().with_columns(b=polars.lit(2)).collect()
    if importlib.util.find_spec("zarr"):
        importlib.import_module("zarr").create_array({}, shape=1, dtype="f8")[:]


@pytest.mark.parametrize("code", "bBhHiIlLqQfd")
def test_array_array(code: str) -> None:
    for obj in (array.array(code, range(100)) * (N // 100), array.array(code)):
        got = sent(obj)
        assert type(got) is array.array
        assert got == obj
        assert got.typecode == code


def test_bytes_io() -> None:
    obj = io.BytesIO(bytes(8 * N))
    obj.seek(7)
    got = sent(obj)
    assert type(got) is io.BytesIO
    assert (got.tell(), got.getvalue()) == (7, bytes(8 * N))
    got.write(b"x")
    obj.name = "a"
    assert sent(obj).name == "a"
    assert sent(io.BytesIO()).getvalue() == b""


def test_pyarrow() -> None:
    pa = pytest.importorskip("pyarrow")
    whole = pa.table({"a": np.arange(8.0 * N), "s": ["text", None] * (4 * N)})
    table = whole.slice(N, N // 10)
    for obj in (table, table["a"], table["s"].chunk(0), table.to_batches()[0]):
        data = dumps([obj])
        assert len(data) < 1.2 * obj.nbytes + 10_000
        got = deserialize(data)[0]
        assert got.equals(obj)
        assert type(got) is type(obj)
    for part in (whole["a"].chunk(0), whole["a"].chunk(0)[: 4 * N]):
        frames = [np.frombuffer(frame, np.uint8) for frame in serialize([part]) if len(frame)]
        assert any(np.shares_memory(frame, part.to_numpy()) for frame in frames)  # not copied
    got = sent(whole)
    assert got.equals(whole)
    assert got.schema == whole.schema
    numbers = pa.array([1.0, None, 3.0] * N)
    for start, length in ((8 * 1000, 20_000), (8 * 1000 + 5, 20_001), (3, 20_000), (N, 0)):
        part = numbers.slice(start, length)
        got = sent(part)
        assert got.equals(part)
        assert got.null_count == part.null_count
    memory = np.frombuffer(numbers.buffers()[1], np.uint8)
    frames = [np.frombuffer(frame, np.uint8) for frame in serialize(numbers.slice(N, N // 10))]
    assert any(np.shares_memory(frame, memory) for frame in frames)
    row = whole.slice(5, 1)
    assert len(dumps(row)) < 10_000
    assert deserialize(dumps(row)).equals(row)
    dictionary = pa.array(["a", "b"] * N).dictionary_encode()[3:9]
    assert deserialize(dumps(dictionary)).equals(dictionary)


def test_pandas_over_pyarrow() -> None:
    pytest.importorskip("pyarrow")
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "i": pd.Series(range(N), dtype="int64[pyarrow]"),
            "s": pd.Series(["text", None] * (N // 2), dtype="string[pyarrow]"),
            "f": pd.Series(np.arange(N, dtype="f8"), dtype="double[pyarrow]"),
            "d": pd.Series(["text", "other"] * (N // 2)),
        }
    )
    got = sent(frame)
    pd.testing.assert_frame_equal(got, frame)
    chunks = pd.concat([frame, frame])
    pd.testing.assert_frame_equal(deserialize(dumps(chunks)), chunks)
    assert got["i"].array._cache == {} if hasattr(got["i"].array, "_cache") else True


def test_polars() -> None:
    pl = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    frame = pl.DataFrame(
        {
            "i": range(N),
            "s": ["a text that is too long to be inlined", None] * (N // 2),
            "b": [True, None] * (N // 2),
            "l": [[1, 2], []] * (N // 2),
        }
    ).with_columns(t=pl.lit(None, dtype=pl.Datetime("us", "UTC")))
    parts = (frame["s"], frame["i"].alias(""), frame[10:20], frame.clear(), pl.DataFrame())
    for obj in (frame, *parts):
        got = sent(obj)
        assert type(got) is type(obj)
        assert got.equals(obj)
        assert getattr(got, "schema", None) == getattr(obj, "schema", None)
        assert getattr(got, "name", None) == getattr(obj, "name", None)
    numbers = pl.DataFrame({"f": np.arange(8.0 * N)})
    assert sent(numbers).equals(numbers)
    buffer = bytearray(dumps([numbers]))
    got = deserialize(buffer)[0]["f"].to_numpy()
    assert np.shares_memory(got, np.frombuffer(buffer, np.uint8))
    categories = pl.DataFrame({"c": pl.Series(["a", "b"] * N, dtype=pl.Categorical)})
    assert deserialize(dumps(categories)).equals(categories)
    assert deserialize(dumps(categories)).schema == categories.schema


def test_jax() -> None:
    if importlib.util.find_spec("jax") is None:
        pytest.skip("could not import 'jax'")
    python("send_arrays_of_jax")


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(N, dtype=torch.float64)
    for obj in (tensor, tensor[5:50], tensor.reshape(10, -1).T, torch.nn.Parameter(tensor)):
        got = sent(obj)
        assert type(got) is type(obj)
        assert torch.equal(got, obj)
        assert (got.dtype, got.stride(), got.requires_grad) == (
            obj.dtype,
            obj.stride(),
            obj.requires_grad,
        )
    buffer = bytearray(dumps([tensor]))
    got = deserialize(buffer)[0]
    assert np.shares_memory(got.numpy(), np.frombuffer(buffer, np.uint8))
    got[0] = 5
    model = torch.nn.Sequential(torch.nn.Linear(1000, 100), torch.nn.ReLU())
    for obj in (model, model.state_dict()):
        back = sent(obj)
        weights, wanted = (
            each if isinstance(each, dict) else each.state_dict() for each in (back, obj)
        )
        assert list(weights) == list(wanted)
        assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    assert sent(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert sent(torch.empty(0)).shape == (0,)


@pytest.mark.filterwarnings("ignore")
def test_astropy() -> None:
    units = pytest.importorskip("astropy.units")
    table = pytest.importorskip("astropy.table")
    quantity = np.arange(float(N)) * units.m
    quantity.info.name = "distance"
    column = table.Column(np.arange(float(N)), name="c", unit="s", meta={"a": 1})
    got = sent(quantity)
    assert type(got) is type(quantity)
    assert got.unit == quantity.unit
    assert got.info.name == "distance"
    assert (got == quantity).all()
    got = sent(column)
    assert (got.name, got.unit, got.meta) == (column.name, column.unit, column.meta)
    for kind in (table.Table, table.QTable):
        obj = kind({"a": column, "q": quantity})
        obj["q"].info.description = "how far"
        obj.meta["a"] = [1]
        buffer = bytearray(dumps([obj]))
        for got in (sent(obj), deserialize(buffer)[0]):
            assert type(got) is kind
            assert got.colnames == obj.colnames
            assert got.meta == obj.meta
            assert (got["q"] == obj["q"]).all()
            assert got["q"].unit == obj["q"].unit
            assert got["q"].info.description == "how far"
        shown = [np.frombuffer(frame, np.uint8) for frame in serialize(obj)]
        for name in obj.colnames:
            assert any(np.shares_memory(each, np.asarray(obj[name])) for each in shown)
            assert np.shares_memory(np.asarray(got[name]), np.frombuffer(buffer, np.uint8))


def shows(part: Any, buffer: bytearray) -> bool:
    """Return whether an array lies in a buffer."""
    return np.shares_memory(np.asarray(part), np.frombuffer(buffer, np.uint8))


def test_pandas_over_numpy() -> None:
    pd = pytest.importorskip("pandas")
    times = pd.date_range("2026-01-01", periods=N, freq="s")
    frame = pd.DataFrame({"a": np.arange(float(N)), "b": np.arange(float(N))}, index=times)
    buffer = bytearray(dumps(frame))
    got = deserialize(buffer)
    pd.testing.assert_frame_equal(got, frame)
    assert shows(got["a"].to_numpy(), buffer)
    kinds = pd.Series(pd.Categorical.from_codes(np.arange(N) % 3, ["a", "b", "c"]))
    pd.testing.assert_series_equal(sent(kinds, copied=30_000), kinds)


def test_xarray() -> None:
    xarray = pytest.importorskip("xarray")
    array = xarray.DataArray(np.ones((300, 400)), dims=("y", "x"), attrs={"unit": "m"})
    for obj in (array, xarray.Dataset({"a": array, "b": array + 1}, {"x": np.arange(400)})):
        buffer = bytearray(dumps(obj))
        got = deserialize(buffer)
        assert type(got) is type(obj)
        assert got.identical(obj)
        assert shows(getattr(got, "a", got).values, buffer)
    row = xarray.DataArray(np.arange(400.0), dims="x").broadcast_like(array)
    assert len(dumps(row)) < 20_000
    assert deserialize(dumps(row)).identical(row)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr"])
def test_scipy_sparse(form: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    obj = sparse.random(1000, 1000, 0.1, format=form)
    buffer = bytearray(dumps(obj))
    got = deserialize(buffer)
    assert type(got) is type(obj)
    assert (abs(got - obj)).nnz == 0
    assert shows(got.data, buffer)


@pytest.mark.filterwarnings("ignore")
def test_awkward() -> None:
    awkward = pytest.importorskip("awkward")
    obj = awkward.Array([[1.0, 2.0], []] * N)
    got = sent(obj)
    assert type(got) is type(obj)
    assert awkward.array_equal(got, obj)
    buffer = bytearray(dumps(obj))
    assert shows(awkward.flatten(deserialize(buffer)), buffer)


@pytest.mark.filterwarnings("ignore")
def test_pint() -> None:
    pint = pytest.importorskip("pint")
    obj = pint.get_application_registry().Quantity(np.arange(float(N)), "m")
    got = sent(obj)
    assert (got == obj).all()
    assert got.units == obj.units


@pytest.mark.filterwarnings("ignore")
def test_zarr() -> None:
    zarr = pytest.importorskip("zarr")
    obj = zarr.create_array({}, shape=N, chunks=N // 4, dtype="f8", compressors=None)
    obj[:] = np.arange(float(N))
    assert (sent(obj)[:] == obj[:]).all()


class Image:
    def __init__(self, memory: bytearray) -> None:
        self.memory = memory


def reduce_image(image: Image) -> Any:
    return Image, (pickle.PickleBuffer(image.memory),)


def test_users_add_kinds_by_copyreg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, Image, reduce_image)
    image = Image(bytearray(8 * N))
    buffer = bytearray(dumps([image]))
    got = deserialize(buffer)[0]
    assert np.shares_memory(np.frombuffer(got.memory, np.uint8), np.frombuffer(buffer, np.uint8))


def test_no_library_is_imported_for_objects_of_others() -> None:
    code = """if True:
        import array, fractions, io, sys
        from fsexchange.serialize import dumps, deserialize
        deserialize(dumps([io.BytesIO(b"1"), array.array("d"), fractions.Fraction(1), {1: 2}]))
        libraries = {"astropy", "cloudpickle", "jax", "pandas", "polars", "pyarrow", "torch"}
        print(libraries & set(sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
