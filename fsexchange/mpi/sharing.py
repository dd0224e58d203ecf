"""Sharing: the ranks of a communicator open one directory, or all raise the same error."""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.default import default_store
from fsexchange.errors import NotSharedError, RemoteError, StoreClosedError
from fsexchange.filesystem.kinds import find_filesystem

if TYPE_CHECKING:
    from mpi4py import MPI

# A host that looks for a directory too early caches its absence. A network file system then hides
# the directory from this host: for 30 s by default on NFS (acdirmin, nfs(5)).
_HIDDEN_FOR = 35.0


class Shared(NamedTuple):
    """One rank's connector to the shared directory, and what the root decided."""

    connector: FileConnector
    temporary: bool
    """Whether the store ends with the root, which may have attached to another owner's store."""
    inline_limit: int


def share(
    comm: MPI.Intracomm,
    store_dir: str | os.PathLike[str] | None,
    root: int,
    hosts: list[str],
    inline_limit: int,
    options: dict[str, Any],
) -> Shared:
    """Return this rank's connector, once all ranks have one to the same directory; collective.

    The root's directory, limit and options count for all ranks.
    """
    connector: FileConnector | None = None
    own: Exception | None = None
    offer: tuple[dict[str, Any], bool, int] | Exception
    if comm.rank == root:
        try:
            if store_dir is None:
                place = default_store(hosts, clear=options["clear"])
            else:
                place = {"store_dir": store_dir}
            connector = FileConnector(**{**options, **place})
            offer = connector.config(), connector.owned and connector.clear, inline_limit
        except Exception as error:  # whatever it is, the others wait for the offer
            own = error
            offer = error if _travels(error) else RemoteError(repr(error), rank=root)
    offer = comm.bcast(offer if comm.rank == root else None, root)
    if isinstance(offer, Exception):
        raise offer if own is None else own
    config, temporary, limit = offer
    verdict = ""
    if connector is None:
        try:
            connector = _attach(config)
        except Exception as error:  # whatever it is, the others wait for the verdict
            verdict = f"{hosts[comm.rank]}: {error}"
    verdicts = comm.allgather(verdict)
    blind = {rank: verdict for rank, verdict in enumerate(verdicts) if verdict}
    if blind or connector is None:
        if connector is not None:
            connector.close()
        path, first = config["store_dir"], min(blind)
        raise NotSharedError(
            f"{len(blind)} of {comm.size} ranks do not see {path}, which rank {root} on "
            f"{hosts[root]} opened: ranks {', '.join(map(str, blind))} on "
            f"{', '.join(sorted({hosts[rank] for rank in blind}))}. Choose a store_dir on a file "
            f"system that all of these hosts mount. Rank {first} on {blind[first]}",
            path=path,
            ranks=blind,
        )
    return Shared(connector, temporary, limit)


def _travels(error: Exception) -> bool:
    try:
        return isinstance(pickle.loads(pickle.dumps(error)), Exception)
    except Exception:
        return False


def _attach(config: dict[str, Any]) -> FileConnector:
    """Attach to the root's store; retry for as long as this host may cache its absence."""
    deadline = time.monotonic() + _HIDDEN_FOR
    while True:
        try:
            # This proves enough: the store has a file whose random name of 64 bits root just made.
            return FileConnector.from_config(config)
        except StoreClosedError:
            parent = os.path.dirname(config["store_dir"])
            if time.monotonic() > deadline or not _may_be_hidden(parent):
                raise
        time.sleep(0.05)


def _may_be_hidden(parent: str) -> bool:
    try:
        os.listdir(parent)  # makes most clients forget which names are absent
        return find_filesystem(parent).policy.network
    except OSError:
        return False
