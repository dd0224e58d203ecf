"""How the ranks of a communicator come to share one directory, and what all hear if some cannot."""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.place import default_directory
from fsexchange.errors import NotSharedError, RemoteError, StoreClosedError
from fsexchange.filesystem.kinds import find_filesystem

if TYPE_CHECKING:
    from mpi4py import MPI

# A network file system may hide a directory from a host that looked for it too early for as long
# as it caches the absence: 30 s by default on NFS (acdirmin, nfs(5)).
_HIDDEN_FOR = 35.0

#: Bytes up to which an object rides inside its message. Between 4 ranks of one host, on tmpfs,
#: messages and files cost the same at 2 MiB a rank (allgather) to 32 MiB (bcast); what is for one
#: rank alone is always faster in a message: `scripts/bench-exchange`. Beyond, files keep one copy a
#: node where messages make one a rank, and leave on disk what is not looked at.
INLINE_LIMIT = 8 << 20


class Shared(NamedTuple):
    """What one rank has of the directory that all share."""

    connector: FileConnector
    temporary: bool
    """Whether the store ends with the root: not if that only attached to one that was there."""
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

    What the root says of directory, limit and options counts for all.
    """
    connector: FileConnector | None = None
    own: Exception | None = None
    offer: tuple[dict[str, Any], bool, int] | Exception
    if comm.rank == root:
        try:
            connector = FileConnector(_choose(store_dir, hosts), **options)
            offer = connector.config(), connector.owned and connector.clear, inline_limit
        except Exception as error:  # whatever it is, the others must not wait for the offer
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
        except Exception as error:  # here, too: the others wait for the verdict
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
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _choose(store_dir: str | os.PathLike[str] | None, hosts: list[str]) -> str:
    if store_dir is not None:
        return os.fspath(store_dir)
    return default_directory(hosts)


def _attach(config: dict[str, Any]) -> FileConnector:
    """Attach to root's store, and be patient where a client may remember that it was not there."""
    deadline = time.monotonic() + _HIDDEN_FOR
    while True:
        try:
            # Proof enough: the store's witness has a random name of 64 bits that root just made.
            return FileConnector.from_config(config)
        except StoreClosedError:
            parent = os.path.dirname(config["store_dir"])
            if time.monotonic() > deadline or not _may_be_hidden(parent):
                raise
        time.sleep(0.05)


def _may_be_hidden(parent: str) -> bool:
    try:
        os.listdir(parent)  # clears what most clients remember of its names
        return find_filesystem(parent).policy.network
    except OSError:
        return False
