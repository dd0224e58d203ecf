"""Check what becomes of arrays of JAX: a process that has imported it should not fork any more."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from fsexchange.serialize import deserialize, dumps

from ..test_kinds import N, address, sent

jax: Any = importlib.import_module("jax")
obj = jax.numpy.arange(N, dtype="f4").reshape(10, -1)
got = sent(obj)
assert type(got) is type(obj)
assert (got.dtype, got.shape, got.weak_type) == (obj.dtype, obj.shape, obj.weak_type)
assert (got == obj).all()
data = dumps([obj])
memory = np.empty(len(data) + 64, np.uint8)
buffer = memory[-address(memory) % 64 :][: len(data)]  # jax copies what is not aligned
buffer[:] = np.frombuffer(data, np.uint8)
assert 0 < address(deserialize(buffer.data)[0]) - address(buffer) < len(data)
weak = jax.numpy.asarray(2.0) * jax.numpy.ones(3)
assert sent(weak).weak_type == weak.weak_type
half = jax.numpy.ones(N, "bfloat16")
assert sent(half).dtype == half.dtype
