"""Read and write this program's own small files: measurements, keys, cached headers, tokens.

A path may hold anything by the time it is opened. So a FIFO is not waited for, a device and a link are not
followed, and no more is read than such a file can have. A write replaces the whole file at once, so that a
reader finds the old file or the new one, never a part; only its owner can read it.
"""

import errno
import os
import stat
import tempfile
from io import FileIO
from pathlib import Path

from vram_llm.units import format_bytes


def open_regular(path: Path, flags: int, *, follow: bool = False, mode: int = 0o600) -> int:
    """A descriptor of a regular file. Raises OSError, also for a link unless `follow`, and for all else."""
    given = flags | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, given, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(errno.ELOOP, "it is a link to elsewhere") from None
        if error.errno == errno.ENXIO:  # a FIFO without a reader, or a socket
            raise OSError(errno.ENXIO, "it is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return descriptor


def read_state(path: Path, max_bytes: int, *, follow: bool = False) -> bytes:
    """The bytes of a file of at most `max_bytes`. Raises OSError."""
    with FileIO(open_regular(path, os.O_RDONLY, follow=follow)) as stream:
        size = os.fstat(stream.fileno()).st_size
        data = stream.read(max_bytes + 1) if size <= max_bytes else b""
    if max(size, len(data)) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {format_bytes(max_bytes)}, which no such file is")
    return data


def write_state(path: Path, *parts: bytes | memoryview, durable: bool = False) -> None:
    """Replace the file by `parts`, mode 0600. `durable`: it is on the disk on return. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".new")  # its mode is 0600
    try:
        with open(descriptor, "wb") as stream:
            stream.writelines(parts)
            if durable:
                stream.flush()
                os.fsync(descriptor)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise
