"""Whether a file is still the one whose header was read."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from vram_llm.errors import BadPlan
from vram_llm.state_file import open_regular

_N_SAMPLES, _SAMPLE_BYTES = 64, 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """A file as it was when its header was read."""

    path: str
    n_bytes: int
    mtime_ns: int
    inode: int
    header_bytes: int
    header_sha256: str  # of the first `header_bytes`


def identity(path: Path, facts: os.stat_result, header: memoryview) -> FileIdentity:
    """The identity of the file at `path` that had these `facts` when it was opened, and this header."""
    return FileIdentity(
        path=str(path),
        n_bytes=facts.st_size,
        mtime_ns=facts.st_mtime_ns,
        inode=facts.st_ino,
        header_bytes=len(header),
        header_sha256=hashlib.sha256(header).hexdigest(),
    )


def is_untouched(file: FileIdentity) -> bool:
    """Whether nothing was written to the file, and no other one took its place."""
    try:
        facts = os.stat(file.path)
    except OSError:
        return False
    return _facts(facts) == (file.n_bytes, file.mtime_ns, file.inode)


def change_of(file: FileIdentity) -> str | None:
    """The change of a file, as a sentence that begins with its path; None if a plan still holds.

    A copy, or a file that was written again, has the same size and header, which are all that a plan uses.
    """
    if is_untouched(file):
        return None
    try:
        with open(open_regular(Path(file.path), os.O_RDONLY, follow=True), "rb") as stream:
            n_bytes = os.fstat(stream.fileno()).st_size
            if n_bytes != file.n_bytes:
                return (
                    f"{file.path} has changed since the plan was made: it has {n_bytes:,} bytes,"
                    f" the plan is for {file.n_bytes:,}"
                )
            digest = hashlib.sha256(stream.read(file.header_bytes)).hexdigest()
    except OSError as error:
        return f"{file.path} cannot be read any more: {error.strerror or error}"
    if digest == file.header_sha256:
        return None
    return f"{file.path} has changed since the plan was made: its header is another one"


def now(file: FileIdentity) -> FileIdentity:
    """The file as it is now, if its header is the same; as it was, if it is gone."""
    try:
        facts = os.stat(file.path)
    except OSError:
        return file
    return replace(file, n_bytes=facts.st_size, mtime_ns=facts.st_mtime_ns, inode=facts.st_ino)


def content_digest(path: Path) -> str:
    """A hash of a model file's size, its first bytes and samples of its weights: 2 MiB. Raises OSError.

    Models of one shape may have equal headers; two with equal samples are not to be expected.
    """
    with open(open_regular(path, os.O_RDONLY, follow=True), "rb") as stream:
        n_bytes = os.fstat(stream.fileno()).st_size
        digest = hashlib.sha256(n_bytes.to_bytes(8))
        for i in range(_N_SAMPLES):
            stream.seek(i * n_bytes // _N_SAMPLES)
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def check_files(files: Iterable[FileIdentity]) -> None:
    """Raises BadPlan for the first file of a plan that has changed."""
    for file in files:
        if (change := change_of(file)) is not None:
            raise BadPlan(f"{change}; plan again")


def touch_of(file: FileIdentity) -> str | None:
    """The change of a file while it is served, as a sentence that begins with its path; None: no change."""
    try:
        facts = os.stat(file.path)
    except OSError as error:
        return f"{file.path} is gone ({error.strerror}): the engine cannot be started again without it"
    if _facts(facts) == (file.n_bytes, file.mtime_ns, file.inode):
        return None
    if facts.st_ino != file.inode:
        return (
            f"{file.path} was replaced: the engine serves the file that it loaded until it is started again"
        )
    if facts.st_size < file.n_bytes:
        return (
            f"{file.path} was cut from {file.n_bytes:,} to {facts.st_size:,} bytes: an engine that has mapped"
            " it ends when it reads the others"
        )
    return f"{file.path} was written to: an engine that has mapped it may compute with other weights"


def _facts(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ino
