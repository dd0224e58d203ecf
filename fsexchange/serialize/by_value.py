"""Functions and classes by value, for processes that cannot import them: cloudpickle."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any

import cloudpickle
import numpy as np

from fsexchange.serialize.pickling import MAINS, _from_main, place_in_main, reduce_buffer


class CloudPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, but a process that runs the same script uses its own functions and classes."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (np.ndarray, memoryview)):
            return reduce_buffer(obj)
        if isinstance(obj, (type, FunctionType)) and obj.__module__ in MAINS:
            if obj.__module__ == "__mp_main__":
                cloudpickle.register_pickle_by_value(sys.modules["__mp_main__"])
            place = place_in_main(obj)
            if place is not None:
                return _from_main, (*place, cloudpickle.dumps(obj))
        return super().reducer_override(obj)
