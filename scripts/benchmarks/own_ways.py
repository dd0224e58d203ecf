"""The ways in which libraries themselves write their objects to files and read them."""

import array
import importlib
import shutil

import numpy as np

from .peers import Files


class Own(Files):
    """A file that `write` makes and `read` reads."""

    def put(self, obj):
        path = self.next()
        self.write(path, obj)
        return path

    def get(self, path):
        return self.read(path)


class NumpyZip(Own):
    """numpy.savez and numpy.load."""

    name = "np.savez"

    def next(self):
        return super().next().replace(".npy", ".npz")

    def write(self, path, obj):
        np.savez(path, **obj)

    def read(self, path):
        with np.load(path) as arrays:
            return dict(arrays)


class Plain(Own):
    """The bytes alone, in a file; their user keeps the type elsewhere."""

    name = "write, read"

    def put(self, obj):
        path = self.next()
        if isinstance(obj, str):
            with open(path, "w", encoding="utf-8", newline="") as file:
                file.write(obj)
        else:
            with open(path, "wb") as file:
                file.write(obj)
        return path, type(obj)

    def get(self, key):
        path, kind = key
        if kind is str:
            with open(path, encoding="utf-8", newline="") as file:
                return file.read()
        with open(path, "rb") as file:
            if kind is bytes:
                return file.read()
            if kind is bytearray:
                made = bytearray(file.seek(0, 2))
                file.seek(0)
                file.readinto(made)
                return made
            made = array.array("d")
            made.frombytes(file.read())
            return made

    def evict(self, key):
        super().evict(key[0])


class Feather(Own):
    """DataFrame.to_feather and pandas.read_feather."""

    name = "feather"

    def write(self, path, obj):
        obj.to_feather(path, compression="uncompressed")

    def read(self, path):
        return importlib.import_module("pandas").read_feather(path)


class Polars(Own):
    """DataFrame.write_ipc and polars.read_ipc."""

    name = "polars IPC"

    def write(self, path, obj):
        obj.write_ipc(path, compression="uncompressed")

    def read(self, path):
        return importlib.import_module("polars").read_ipc(path)


class Pyarrow(Own):
    """A file of Arrow IPC, mapped."""

    name = "Arrow IPC"

    def write(self, path, obj):
        pyarrow = importlib.import_module("pyarrow")
        with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_file(file, obj.schema) as writer:
            writer.write_table(obj)

    def read(self, path):
        pyarrow = importlib.import_module("pyarrow")
        return pyarrow.ipc.open_file(pyarrow.memory_map(path)).read_all()


class Netcdf(Own):
    """xarray's to_netcdf, and load."""

    name = "netCDF"

    def write(self, path, obj):
        obj.to_netcdf(path, engine="netcdf4")

    def read(self, path):
        return importlib.import_module("xarray").load_dataset(path, engine="netcdf4")


class ScipySparse(NumpyZip):
    """scipy.sparse.save_npz and load_npz."""

    name = "save_npz"

    def write(self, path, obj):
        importlib.import_module("scipy.sparse").save_npz(path, obj, compressed=False)

    def read(self, path):
        return importlib.import_module("scipy.sparse").load_npz(path)


class Awkward(Own):
    """awkward.to_feather and from_feather."""

    name = "feather"

    def write(self, path, obj):
        importlib.import_module("awkward").to_feather(obj, path, compression="uncompressed")

    def read(self, path):
        return importlib.import_module("awkward").from_feather(path, memory_map=True)


class Astropy(Own):
    """Table.write and Table.read of FITS, mapped."""

    name = "FITS"

    def write(self, path, obj):
        obj.write(path, format="fits", overwrite=True)

    def read(self, path):
        kind = importlib.import_module("astropy.table").QTable
        return kind.read(path, format="fits", memmap=True)


class Zarr(Own):
    """A directory that zarr makes, and reads."""

    name = "a directory"

    def write(self, path, obj):
        importlib.import_module("zarr").create_array(
            path, data=obj[:], compressors=None, overwrite=True
        )

    def read(self, path):
        return importlib.import_module("zarr").open_array(path, mode="r")[:]

    def evict(self, path):
        shutil.rmtree(path)


class Torch(Own):
    """torch.save and torch.load, mapped."""

    name = "torch.save"

    def write(self, path, obj):
        importlib.import_module("torch").save(obj, path)

    def read(self, path):
        return importlib.import_module("torch").load(path, mmap=True, weights_only=False)


class Jax(Own):
    """jax.numpy.save and load."""

    name = "jnp.save"

    def write(self, path, obj):
        importlib.import_module("jax").numpy.save(path, obj)

    def read(self, path):
        return importlib.import_module("jax").numpy.load(path)
