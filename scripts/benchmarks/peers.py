"""The ways to exchange objects that are measured: fsexchange, its peers, bare system calls."""

import mmap
import os
import pickle
import uuid
from multiprocessing import shared_memory

import joblib
import numpy as np

from fsexchange import Store

from .words import MIB

IOV_MAX = os.sysconf("SC_IOV_MAX")


class Way:
    """One way to exchange objects. A batch is a loop, where there is no verb for one."""

    name: str

    def put_batch(self, objs):
        return [self.put(obj) for obj in objs]

    def get_batch(self, keys):
        return [self.get(key) for key in keys]

    def evict_batch(self, keys):
        for key in keys:
            self.evict(key)

    def close(self):
        pass


class Verbs(Way):
    """A way whose verbs are those of a store."""

    def __init__(self, store):
        for verb in ("put", "get", "evict", "put_batch", "get_batch", "evict_batch", "close"):
            if hasattr(store, verb):
                setattr(self, verb, getattr(store, verb))


class Ours(Verbs):
    """fsexchange's Store."""

    name = "fsexchange"

    def __init__(self, folder):
        super().__init__(Store(f"{folder}/ours"))


class ProxyStore(Verbs):
    """ProxyStore's Store over its FileConnector, without its cache."""

    name = "ProxyStore"

    def __init__(self, folder):
        # Takes 2 s, with pandas and polars; processes that measure memory do without.
        from proxystore.connectors.file import FileConnector as TheirConnector
        from proxystore.store import Store as TheirStore

        connector = TheirConnector(f"{folder}/theirs")
        super().__init__(TheirStore(str(uuid.uuid4()), connector, cache_size=0, register=True))


class Files(Way):
    """One file for each object, under a name that the peer's user has to choose."""

    def __init__(self, folder):
        self.prefix = f"{folder}/{self.name.replace(' ', '-')}-"
        self.count = 0

    def next(self):
        self.count += 1
        return f"{self.prefix}{self.count}.npy"

    def evict(self, path):
        os.unlink(path)


class Numpy(Files):
    """numpy.save and numpy.load, mapped copy-on-write."""

    name = "numpy"

    def put(self, array):
        path = self.next()
        np.save(path, array)
        return path

    def get(self, path):
        return np.load(path, mmap_mode="c" if os.path.getsize(path) > 128 else None)


class Joblib(Files):
    """joblib.dump and joblib.load, mapped copy-on-write."""

    name = "joblib"

    def put(self, obj):
        path = self.next()
        joblib.dump(obj, path)
        return path

    def get(self, path):
        return joblib.load(path, mmap_mode="c")


class Pickle(Files):
    """Plain pickle, of protocol 5, to a file and from it."""

    name = "pickle"

    def put(self, obj):
        path = self.next()
        with open(path, "wb") as file:
            pickle.dump(obj, file, 5)
        return path

    def get(self, path):
        with open(path, "rb") as file:
            return pickle.load(file)


class SharedMemory(Way):
    """multiprocessing.shared_memory; its user keeps the shape and the dtype elsewhere."""

    name = "shared_memory"

    def __init__(self, folder):
        self.opened = {}

    def put(self, array):
        block = shared_memory.SharedMemory(create=True, size=max(1, array.nbytes))
        np.ndarray(array.shape, array.dtype, buffer=block.buf)[:] = array
        return block

    def get(self, block):
        again = self.opened[block.name] = shared_memory.SharedMemory(block.name)
        return np.ndarray(block.size // 8, "f8", buffer=again.buf)

    def evict(self, block):
        again = self.opened.pop(block.name, None)  # none if nobody got it
        if again is not None:
            again.close()
        block.close()
        block.unlink()


class Bare(Files):
    """The fewest system calls: open, writev, close; open, read or mmap, close; unlink.

    A key is a path and a length, so that no call asks the file for its length. `get` returns bytes
    or a mapping of them, not an object. A batch is one file, written and read as a whole.
    """

    name = "bare calls"

    def put(self, array):
        path, nbytes = self.next(), array.nbytes
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        assert os.writev(fd, [array]) == nbytes
        os.close(fd)
        return path, nbytes

    def get(self, key):
        path, nbytes = key
        fd = os.open(path, os.O_RDONLY)
        if nbytes < MIB:
            data = os.read(fd, nbytes)
        else:
            data = mmap.mmap(fd, nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        os.close(fd)
        return data

    def evict(self, key):
        os.unlink(key[0])

    def put_batch(self, arrays):
        path = self.next()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        nbytes = sum(os.writev(fd, arrays[n : n + IOV_MAX]) for n in range(0, len(arrays), IOV_MAX))
        os.close(fd)
        return path, nbytes

    def get_batch(self, key):
        path, nbytes = key
        fd = os.open(path, os.O_RDONLY)
        data = os.read(fd, nbytes)
        os.close(fd)
        return data

    def evict_batch(self, key):
        os.unlink(key[0])


class BareRead(Bare):
    """Bare calls that read objects of every size into memory of their own."""

    def memory(self, nbytes):
        return np.empty(nbytes, np.uint8)

    def get(self, key):
        path, nbytes = key
        fd = os.open(path, os.O_RDONLY)
        data = self.memory(nbytes)
        assert os.readv(fd, [data]) == nbytes
        os.close(fd)
        return data


class BareReread(BareRead):
    """Bare calls that read every object into the same memory, and so need no new pages."""

    name = "bare calls into memory in use"
    used = np.zeros(64 * MIB, np.uint8)

    def memory(self, nbytes):
        return self.used[:nbytes]


ALL = [Ours, ProxyStore, Numpy, Joblib, SharedMemory, Bare]
OF_OBJECTS = [Ours, ProxyStore, Joblib]
OF_KINDS = [Ours, Pickle, ProxyStore, Joblib]
CHIEF = [Ours, ProxyStore, Bare]
