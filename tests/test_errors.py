"""Errors are what they mean, say what they know, and cross processes whole."""

from __future__ import annotations

import errno
import multiprocessing
import pickle

import pytest

import fsexchange
from fsexchange import errors

ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, fsexchange.FsExchangeError)
]


def _thrown(kind: type[fsexchange.FsExchangeError]) -> None:
    raise kind("what, where, what to do", path="/store/x", errno=errno.ENOSPC)


@pytest.mark.parametrize("kind", ALL)
def test_error_round_trips_through_pickle(kind: type[fsexchange.FsExchangeError]) -> None:
    sent = kind("what, where, what to do", path="/store/x", rank=3)
    got = pickle.loads(pickle.dumps(sent))
    assert type(got) is kind
    assert str(got) == str(sent) == "what, where, what to do"
    assert got.__dict__ == sent.__dict__ == {"path": "/store/x", "rank": 3}


def test_error_keeps_errno_from_a_pool_worker() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with pytest.raises(fsexchange.StoreError) as caught:
            pool.apply_async(_thrown, (fsexchange.StoreError,)).get(timeout=60)
        pool.close()
        pool.join()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.path == "/store/x"


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (fsexchange.InvalidKeyError, ValueError),
        (fsexchange.KeyExistsError, FileExistsError),
        (fsexchange.MissingObjectError, LookupError),
        (fsexchange.CorruptObjectError, ValueError),
        (fsexchange.SerializationError, TypeError),
        (fsexchange.StoreError, OSError),
        (fsexchange.StoreClosedError, OSError),
        (fsexchange.UntrustedDirectoryError, PermissionError),
        (fsexchange.WaitTimeoutError, TimeoutError),
        (fsexchange.NotSharedError, OSError),
        (fsexchange.RemoteError, RuntimeError),
        (fsexchange.MismatchError, RuntimeError),
    ],
)
def test_error_is_the_builtin_it_means(kind: type, builtin: type) -> None:
    assert issubclass(kind, builtin)
    assert issubclass(kind, fsexchange.FsExchangeError)


def test_every_error_is_public() -> None:
    assert {kind.__name__ for kind in ALL} <= set(fsexchange.__all__)
