"""Any object as frames and back, without copying what is large in it. Knows no files."""

# The underscored are named in objects that earlier versions wrote.
from fsexchange.serialize.format import (
    Frames,
    deserialize,
    dumps,
    serialize,
)
from fsexchange.serialize.format import (
    _from_main as _from_main,
)
from fsexchange.serialize.format import (
    _masked as _masked,
)
from fsexchange.serialize.format import (
    _memoryview as _memoryview,
)
from fsexchange.serialize.format import (
    _ndarray as _ndarray,
)
from fsexchange.serialize.format import (
    _subclass as _subclass,
)

__all__ = ["Frames", "deserialize", "dumps", "serialize"]
