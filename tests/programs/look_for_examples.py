"""Every public name of fsexchange has an example in its docstring."""

from __future__ import annotations

import fsexchange
import fsexchange.mpi
import fsexchange.pools
import fsexchange.serialize

public = [
    getattr(module, name)
    for module in (fsexchange, fsexchange.mpi, fsexchange.pools, fsexchange.serialize)
    for name in module.__all__
]
# But for names of types, and what is mpi4py's.
public = [
    thing for thing in public if callable(thing) and thing.__module__.startswith("fsexchange")
]
assert len(public) > 20, public
lacking = [thing for thing in public if ">>> " not in (thing.__doc__ or "")]
assert not lacking, lacking
