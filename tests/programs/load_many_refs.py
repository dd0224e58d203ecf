"""Load more small refs, one by one, than this process may have files open."""

from __future__ import annotations

import pickle
import resource
import sys

from fsexchange import Ref, Store

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
with Store(sys.argv[1]) as store:
    keys = store.put_batch(list(range(200)))
    texts = [pickle.dumps(Ref(store, key)) for key in keys]
    refs: list[Ref[int]] = [pickle.loads(text) for text in texts]
    assert [ref.get() for ref in refs] == list(range(200))
    futures = [pickle.loads(pickle.dumps(store.future())) for _ in range(100)]
    for n, future in enumerate(futures):
        future.set_result(n)
        assert future.result(timeout=10) == n
