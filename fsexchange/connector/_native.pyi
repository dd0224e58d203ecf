from fsexchange.connector.keys import FileKey
from fsexchange.filesystem.files import Buffers

def put_own(obj: Buffers, kind: type[FileKey], folder: bytes, name: str, /) -> FileKey | None: ...
def read_own(
    key: FileKey, kind: type[FileKey], folder: bytes, below: int, uid: int, /
) -> bytearray | None: ...
