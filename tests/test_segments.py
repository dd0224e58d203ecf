"""Small objects that share files: each for itself, for every process, and no space is lost."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import (
    CorruptObjectError,
    FileConnector,
    FileKey,
    InvalidKeyError,
    MissingObjectError,
    Ref,
    Store,
    StoreClosedError,
)

from .jobs import all_pass, needs_mpi
from .processes import fork, python, small_tmpfs

LENGTHS = [0, 1, 63, 64, 65, 1000, 4096, 65_535]


@pytest.fixture
def connector(base_dir: Path) -> Iterator[FileConnector]:
    with FileConnector(base_dir / "store") as connector:
        yield connector
    assert not (base_dir / "store").exists()


def objects(connector: FileConnector) -> list[str]:
    """Return the files with objects."""
    folder = Path(connector.store_dir)
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*/[0-9]*") if p.is_file())


def blocks(connector: FileConnector) -> int:
    """Return the bytes that all objects take on disk."""
    files = (Path(connector.store_dir, name) for name in objects(connector))
    return sum(512 * path.stat().st_blocks for path in files)


def test_each_is_what_was_put_until_it_is_evicted(connector: FileConnector) -> None:
    contents = [os.urandom(length) for length in LENGTHS * 5]
    keys = connector.put_batch(contents)
    assert len(objects(connector)) == 1
    for n in random.Random(1).sample(range(len(keys)), len(keys)):
        assert connector.exists(keys[n])
        assert connector.get(keys[n]) == contents[n]
        assert connector.get_part(keys[n], 0, len(contents[n])) == contents[n]
        assert connector.get_batch(keys) == contents
        connector.evict(keys[n])
        connector.evict(keys[n])
        contents[n] = None  # type: ignore[call-overload]
        assert not connector.exists(keys[n])
        assert connector.get(keys[n]) is None
        with pytest.raises(MissingObjectError):
            connector.wait(keys[n])
    assert connector.get_batch(keys) == contents == [None] * len(keys)
    assert objects(connector) == []


def test_one_of_several_is_not_filled(connector: FileConnector) -> None:
    """It would write over the flags of the others."""
    keys = connector.put_batch([b"one", b"two"])
    with pytest.raises(InvalidKeyError, match="cannot be filled"):
        connector.fill(keys[0], [(0, b"\1" * 4096)])
    assert connector.get_batch(keys) == [b"one", b"two"]


def test_an_empty_batch_has_no_keys(connector: FileConnector) -> None:
    assert connector.put_batch([]) == connector.put_alike(b"head", [], 64) == []
    assert connector.put_alike(b"head", np.empty((0, 8)), 68) == []  # type: ignore[arg-type]
    assert objects(connector) == []


@pytest.mark.parametrize("order", ["forwards", "backwards", "mixed"])
def test_a_file_goes_with_its_last_object(order: str, connector: FileConnector) -> None:
    """Of several chunks, the last of which is not full."""
    keys = connector.put_batch([b"%05d" % n * 50 for n in range(1000)])
    if order == "backwards":
        keys.reverse()
    elif order == "mixed":
        random.Random(2).shuffle(keys)
    for key in keys:
        assert len(objects(connector)) == 1
        connector.evict(key)
    assert objects(connector) == []


def test_space_is_given_back_before_the_file_goes(connector: FileConnector) -> None:
    keys = connector.put_batch([bytes(1000)] * 900)
    os.sync()
    before = blocks(connector)
    connector.evict(keys[0])
    connector.evict_batch(keys[2:])
    assert connector.get(keys[1]) == bytes(1000)
    assert before > 900_000
    assert blocks(connector) < 100_000


def test_mixed_batches_keep_their_order(connector: FileConnector) -> None:
    lengths = [*LENGTHS, 65_536, 3, 1 << 20, 3 << 20, 5]
    contents = [os.urandom(length) for length in lengths]
    keys = connector.put_batch([[content[:7], content[7:]] for content in contents])
    alone = connector.put(b"alone")
    assert [key.nbytes for key in keys] == lengths
    assert len(objects(connector)) == 5
    some = [keys[3], keys[-2], alone, keys[3], keys[0]]
    wanted = [contents[3], contents[-2], b"alone", contents[3], contents[0]]
    assert connector.get_batch(some) == wanted
    assert connector.get_batch(list(reversed(keys))) == contents[::-1]
    connector.evict_batch([*some, keys[-1]])
    assert connector.get_batch([*some, keys[-1]]) == [None] * 6
    connector.evict_batch(keys)
    assert objects(connector) == []


def test_far_neighbours_and_long_runs(connector: FileConnector) -> None:
    contents = [bytes([n % 251]) * 20_000 for n in range(300)]
    keys = connector.put_batch(contents)
    for step in (1, 2, 7, 100):
        assert connector.get_batch(keys[::step]) == contents[::step]
        assert connector.get_batch(keys[::-step]) == contents[::-step]


def test_a_batch_that_is_evicted_spares_what_lies_between(connector: FileConnector) -> None:
    contents = [bytes([n]) * 100 for n in range(50)]
    keys = connector.put_batch(contents)
    evicted = {3, 4, 5, 9, 11, 12, 20, 49}
    connector.evict_batch([keys[n] for n in evicted])
    wanted = [None if n in evicted else content for n, content in enumerate(contents)]
    assert connector.get_batch(keys) == wanted


def test_what_is_got_of_a_batch_is_ones_own(connector: FileConnector) -> None:
    keys = connector.put_batch([bytes(100)] * 3)
    mine = connector.get_batch(keys)
    mine[0][:] = b"\x01" * 100
    assert connector.get_batch(keys) == [bytes(100)] * 3 == [bytes(100), *mine[1:]]


@pytest.mark.parametrize(
    "key",
    [
        FileKey("00c0ffee00c0ffee/7.100", 10, 4096 - 64),  # flags
        FileKey("00c0ffee00c0ffee/7.100", 10, 4097),
        FileKey("00c0ffee00c0ffee/7.100", 6401, 4096),  # more than there is
        FileKey("00c0ffee00c0ffee/7.100", -1, 4096),
        FileKey("00c0ffee00c0ffee/7.10000000", 65_536, 10_010_624),
        FileKey("00c0ffee00c0ffee/7.100", 10),  # the file itself
        FileKey("00c0ffee00c0ffee/7.0", 0, 4096),
        FileKey("00c0ffee00c0ffee/7.1e3", 1, 4096),
        FileKey("00c0ffee00c0ffee/7", 10, 4096),
        FileKey("plain", 10, 4096),
        FileKey("../x.100", 10, 4096),
    ],
)
def test_keys_that_no_packed_object_has(key: FileKey, connector: FileConnector) -> None:
    good = connector.put_batch([b"x" * 640] * 10)
    verbs = (connector.get, connector.exists, connector.evict, connector.wait, FileKey.pack)
    for verb in verbs:
        with pytest.raises(InvalidKeyError):
            verb(key)
    for wrong in (key, good[0]._replace(offset=good[0].offset + 1)):
        for batch in (connector.get_batch, connector.evict_batch):
            with pytest.raises(InvalidKeyError):
                batch([*good, wrong])
    assert connector.get_batch(good) == [b"x" * 640] * 10


def test_keys_travel_in_every_form(connector: FileConnector) -> None:
    for key in connector.put_batch([b"one", b"two"]):
        assert FileKey.parse(str(key)) == FileKey.unpack(key.pack()) == key
        assert pickle.loads(pickle.dumps(key)) == key
        assert key.offset > 0


def test_a_packed_object_cannot_be_set(connector: FileConnector) -> None:
    key, _ = connector.put_batch([b"one", b"two"])
    with pytest.raises(InvalidKeyError, match="shares a file"):
        connector.set(key, b"else")
    assert connector.get(key) == b"one"


def test_markers_pack_nothing(base_dir: Path) -> None:
    """ProxyStore's connector, which reads the directory, knows no parts of files."""
    with FileConnector(base_dir / "store", markers=True) as connector:
        keys = connector.put_batch([b"%d" % n for n in range(50)])
        keys += [connector.put(b"x") for _ in range(50)]
        assert len({key.filename for key in keys}) == 100
        assert not any(key.offset for key in keys)
    with Store(FileConnector(base_dir / "store", markers=True)) as store:
        assert not any(key.offset for key in store.put_batch([np.ones(3)] * 5))


def test_truncated_files_are_errors(connector: FileConnector) -> None:
    keys = connector.put_batch([bytes(1000)] * 10)
    os.truncate(connector.path(keys[0]), keys[5].offset + 999)
    for verb in (lambda: connector.get(keys[5]), lambda: connector.get_batch(keys)):
        with pytest.raises(CorruptObjectError, match="put the object again"):
            verb()
    assert connector.get(keys[4]) == bytes(1000)
    os.truncate(connector.path(keys[0]), 0)
    for verb in (lambda: connector.get(keys[4]), lambda: connector.get_batch(keys)):
        with pytest.raises(CorruptObjectError):
            verb()


def test_many_files_are_open_at_a_time_but_not_too_many(connector: FileConnector) -> None:
    batches = [connector.put_batch([b"%d" % n, b"second"]) for n in range(200)]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for n, keys in enumerate(batches):
            assert connector.get(keys[0]) == b"%d" % n
    assert len(os.listdir("/proc/self/fd")) < before + 100
    connector.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def evict_some(connector: FileConnector, keys: list[FileKey], n: int, barrier: Any) -> None:
    random.Random(n).shuffle(keys)
    barrier.wait(60)
    for key in keys:
        connector.evict(key)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_evict_at_a_time(method: str, connector: FileConnector) -> None:
    """Each other's neighbours; the file goes with the very last."""
    context: Any = multiprocessing.get_context(method)
    for _ in range(3):
        keys = connector.put_batch([b"x" * 100] * 2000)
        barrier = context.Barrier(4)
        children = [
            context.Process(target=evict_some, args=(connector, keys[n::4], n, barrier))
            for n in range(4)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 4
        assert connector.get_batch(keys) == [None] * 2000
        assert objects(connector) == []


def read_all(connector: FileConnector, keys: list[FileKey], results: Any) -> None:
    left = set(keys)
    wrong = 0
    while left and not wrong:
        for key in list(left):
            got = connector.get(key)
            if got is None:
                left.discard(key)
            wrong += got not in (None, b"content" * 100)
        wrong += any(got not in (None, b"content" * 100) for got in connector.get_batch(keys))
    results.put(wrong)


def test_readers_see_whole_objects_or_none_while_space_is_given_back(
    connector: FileConnector,
) -> None:
    context = multiprocessing.get_context("fork")
    keys = connector.put_batch([b"content" * 100] * 1300)
    results = context.Queue()
    children = [  # daemons, as they read until all is evicted
        context.Process(target=read_all, args=(connector, keys, results), daemon=True)
        for _ in range(2)
    ]
    for child in children:
        child.start()
    for key in keys:
        connector.evict(key)
    assert [results.get(timeout=60), results.get(timeout=60)] == [0, 0]
    for child in children:
        child.join()
    results.close()
    results.join_thread()


def test_the_end_of_the_store_is_an_error_for_who_has_its_files_open(base_dir: Path) -> None:
    owner = FileConnector(base_dir / "store")
    other = FileConnector.from_config(owner.config())
    keys = owner.put_batch([b"one", b"two"])
    mine, _ = other.put_batch([b"mine", b"mine, too"])
    assert other.get(keys[0]) == b"one"
    assert owner.get(mine) == b"mine"
    owner.close()
    for verb in (
        lambda: other.get(keys[0]),
        lambda: other.get(mine),
        lambda: other.get_batch([*keys, mine]),
        lambda: other.exists(keys[1]),
        lambda: other.put(b"more"),
        lambda: other.put_batch([b"more", b"more"]),
    ):
        with pytest.raises(StoreClosedError, match="gone"):
            verb()
    other.close()
    assert not (base_dir / "store").exists()


def test_evicting_frees_a_full_disk(shm_dir: Path) -> None:
    python(
        "fill_a_disk_with_small_objects",
        shm_dir / "small",
        before=small_tmpfs(shm_dir / "small", 40),
    )


def test_flags_that_are_written_in_part_are_an_error(shm_dir: Path) -> None:
    python("evict_beyond_a_limit", shm_dir / "store")


def test_empty_objects_at_the_very_end_of_a_file(connector: FileConnector) -> None:
    contents = [bytes([n % 251]) * 64 for n in range(1022)]
    *keys, one, two = connector.put_batch([*contents, b"", b""])
    assert len({key.filename for key in [*keys, one, two]}) == 1
    empty = [one, two]
    assert connector.get_batch([*empty, *keys[:2]]) == [b"", b"", bytes(64), b"\1" * 64]
    connector.evict_batch(empty)
    assert connector.get_batch([*empty, keys[0]]) == [None, None, bytes(64)]


def test_a_key_behind_the_last_object_is_none(connector: FileConnector) -> None:
    keys = connector.put_batch([bytes(64)] * 1024)
    behind = keys[-1]._replace(nbytes=0, offset=keys[-1].offset + 64)
    for verb in (connector.get, connector.evict, connector.exists):
        with pytest.raises(InvalidKeyError):
            verb(behind)
    with pytest.raises(InvalidKeyError):
        connector.evict_batch([keys[-1], behind])
    assert connector.get_batch(keys) == [bytes(64)] * 1024


@pytest.mark.parametrize(
    "wrong",
    [
        ("x", "10", 4096),
        ("x", 10, None),
        (None, 10, 4096),
        (["x"], 1, 0),
        ("../secret.5", [], 64),
        ("../secret.5", [64], [64]),
        ("00c0ffee00c0ffee/7.100", 10, 4096.5),
        ("00c0ffee00c0ffee/7.100", 10, 4096.0),
    ],
)
def test_what_is_no_key_is_refused(wrong: Any, connector: FileConnector) -> None:
    key = FileKey(*wrong)
    for verb in (connector.get, connector.exists, connector.evict):
        with pytest.raises(InvalidKeyError):
            verb(key)
    for batch in (connector.get_batch, connector.evict_batch):
        with pytest.raises(InvalidKeyError):
            batch([key, key])


def test_a_child_that_closes_all_files_touches_no_other(connector: FileConnector) -> None:
    """As daemons do; numbers of the parent's open files are its own files' by then."""
    keys = connector.put_batch([b"first", b"second"])
    assert connector.get(keys[0]) == b"first"

    def close_all_files() -> None:
        os.closerange(3, 256)
        mine = [os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE) for _ in range(100)]
        for fd in mine:
            os.write(fd, bytes(40_000))
        connector.evict(keys[0])
        connector.put(b"child's")
        connector.close()
        assert all(os.pread(fd, 40_000, 0) == bytes(40_000) for fd in mine)

    assert os.waitpid(fork(close_all_files), 0)[1] == 0
    assert connector.get_batch(keys) == [None, b"second"]


def test_past_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on network file systems, where all is read by whole pages."""
    with FileConnector(tmp_path / "store") as connector:
        hold = connector.directory
        monkeypatch.setattr(hold, "_policy", hold.policy._replace(network=True))
        contents = [os.urandom(length) for length in LENGTHS * 9]
        keys = connector.put_batch(contents)
        assert [connector.get(key) for key in keys] == connector.get_batch(keys) == contents
        assert connector.get_batch(keys[::7]) == contents[::7]
        connector.evict(keys[3])
        connector.evict_batch(keys[20:])
        assert connector.get_batch(keys) == [*contents[:3], None, *contents[4:20], *[None] * 52]
        connector.evict_batch(keys)
        assert not objects(connector)


def test_truncated_past_the_cache(tmp_path: Path) -> None:
    """An error, and no reader that waits for ever for the rest of a page."""
    python("read_a_truncated_segment", tmp_path / "store", timeout=30)


# ---- objects ------------------------------------------------------------------------------------

point = np.dtype([("x", "f8"), ("name", "S3")])

BATCHES: dict[str, list[Any]] = {
    "nothing": [],
    "one": [np.arange(3)],
    "alike": [np.full((2, 5), n) for n in range(3000)],
    "with padding": [np.full(3, n, "i2") for n in range(100)],
    "of zero dimensions": [np.array(n) for n in range(10)],
    "empty": [np.empty((0, 3))] * 5,
    "of four dimensions": [np.full((1, 2, 3, 4), n) for n in range(9)],
    "times": [np.array([n], "M8[s]") for n in range(5)],
    "records": [np.array([(n, b"abc")], point) for n in range(5)],
    "big-endian": [np.full(4, n, ">i4") for n in range(5)],
    "half of them Fortran": [
        np.array(np.full((3, 3), n), order="F" if n % 2 else "C") for n in range(10)
    ],
    "strided": [np.arange(20 + n)[::2][:7] for n in range(10)],
    "read-only": [np.broadcast_to(np.float64(n), (6,)) for n in range(4)],
    "of several shapes": [np.arange(n % 3) for n in range(10)],
    "of several types": [np.arange(3), np.arange(3.0)] * 3,
    "large": [np.full(10_000, n) for n in range(3)],
    "mixed": [None, "text", {"a": np.arange(3)}, b"", np.ones(20_000), 1.5, [1, 2]],
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_objects(name: str, base_dir: Path) -> None:
    batch = BATCHES[name]
    with Store(base_dir / "store") as store:
        for _ in range(2):  # the second time their shapes are known
            keys = store.put_batch(batch)
            for got in (store.get_batch(keys), [store.get(key) for key in keys]):
                assert len(got) == len(batch)
                for one, other in zip(got, batch, strict=True):
                    assert type(one) is type(other)
                    np.testing.assert_equal(one, other)
                    if isinstance(other, np.ndarray):
                        assert one.dtype == other.dtype
                        assert one.flags.writeable
            store.evict_batch(keys[1:])
            assert store.get_batch(keys[1:], default="gone") == ["gone"] * len(keys[1:])
            store.evict_batch(keys)
        assert not objects(store.connector)


def test_arrays_of_a_batch_are_each_ones_own() -> None:
    with Store() as store:
        keys = store.put_batch([np.zeros(5) for _ in range(10)])
        mine = store.get_batch(keys)
        mine[0][:] = 1
        assert not any(array.any() for array in [*mine[1:], *store.get_batch(keys)])
        assert all(array.base is None for array in mine)  # none keeps the memory of the others


def test_a_batch_by_names_and_refs_with_some_missing() -> None:
    with Store() as store:
        ref = store.ref("of a ref")
        named = store.put("named", name="some/name")
        keys = store.put_batch(list(range(5)))
        store.evict(keys[2])
        batch: list[Any] = [keys[0], "some/name", ref, keys[2], "no such name", named, keys[4]]
        wanted = [0, "named", "of a ref", "-", "-", "named", 4]
        assert store.get_batch(batch, default="-") == wanted
        with pytest.raises(MissingObjectError, match=str(keys[2])):
            store.get_batch(batch)
        store.evict_batch(batch)
        assert store.get_batch(batch, default="-") == ["-"] * 7
        assert not store.names


def test_a_failure_in_a_batch_is_raised() -> None:
    with Store() as store:
        future = store.future()
        future.set_exception(FileNotFoundError("of the task"))
        keys = store.put_batch(["one", "two"])
        with pytest.raises(FileNotFoundError, match="of the task"):
            store.get_batch([*keys, future.ref])


def test_a_cache_serves_batches() -> None:
    with Store(cache=1 << 20) as store:
        keys = store.put_batch([np.full(3, n) for n in range(5)])
        for _ in range(2):
            assert [array[0] for array in store.get_batch(keys)] == [0, 1, 2, 3, 4]
        store.evict_batch(keys)
        assert store.get_batch(keys, default=None) == [None] * 5


@needs_mpi
@pytest.mark.parametrize("n", [1, 2, 4])
def test_on_every_rank(n: int, shm_dir: Path) -> None:
    bodies = ["racing_evictions", "read_by_all"]
    all_pass(n, "segments", bodies, shm_dir)


def test_refs_on_objects_of_one_file_are_not_equal() -> None:
    with Store() as store:
        keys = store.put_batch(["one", "two"])
        one: Ref[str] = Ref(store, keys[0])
        two: Ref[str] = Ref(store, keys[1])
        assert one != two
        assert len({one, two, pickle.loads(pickle.dumps(one))}) == 2
        assert (one.get(), two.get()) == ("one", "two")
