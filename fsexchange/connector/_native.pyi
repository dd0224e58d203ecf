from fsexchange.connector.keys import FileKey

def read_own(
    key: FileKey, kind: type[FileKey], folder: bytes, below: int, uid: int, /
) -> bytearray | None: ...
