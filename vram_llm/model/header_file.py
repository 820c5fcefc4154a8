"""Read the header at the start of one file on this computer.

Only as many bytes are read as the header needs, and no more than the disk holds of the file: a file of a
kilobyte can claim any size, because a hole takes no room on the disk.
"""

import os
import stat
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from vram_llm.errors import CorruptHeader, ModelFileError, ModelNotFound, TruncatedFile
from vram_llm.model.file_identity import FileIdentity, identity
from vram_llm.model.gguf import GgufFile, parse
from vram_llm.model.known_arrays import KnownArrays
from vram_llm.model.shards import by_model
from vram_llm.units import MIB, format_bytes

MAX_HEADER_BYTES = 256 * MIB
HOLE_BYTES = (
    16 * MIB
)  # a header may have holes where it is zero, as some programs copy files, up to this size
_FIRST_BYTES = MIB
_GROWTH = 8  # the next read's end as a multiple of the last one's
_PIECE_BYTES = 4 * MIB
_BLOCK_BYTES = 512  # of st_blocks


@dataclass(frozen=True, slots=True)
class ReadFile:
    """One file's header, and the size of the whole file in bytes."""

    contents: GgufFile
    n_bytes: int
    identity: FileIdentity | None = None  # None: on a server


def read_file_header(path: Path, known: KnownArrays | None = None) -> ReadFile:
    """The header of the file at `path`, with `known` arrays of its siblings.

    Raises ModelNotFound, ModelFileError, TruncatedFile and CorruptHeader.
    """
    try:
        if not path.is_file():
            raise _not_a_file(path)
        # it may have become a FIFO, whose opening must not wait
        with FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as stream:
            facts = os.fstat(stream.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise _not_a_file(path)
            if facts.st_size == 0:
                raise TruncatedFile(f"{path} is empty; download it again")
            real_bytes = facts.st_blocks * _BLOCK_BYTES
            contents, data = _parse(stream, path.name, facts.st_size, real_bytes, known)
            with memoryview(data) as view, view[: contents.data_offset] as header:
                return ReadFile(contents, facts.st_size, identity(path, facts, header))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise ModelFileError(f"{path} cannot be read: there is too little memory for its header") from None


def _parse(
    stream: FileIO, name: str, n_bytes: int, real_bytes: int, known: KnownArrays | None
) -> tuple[GgufFile, bytearray]:
    """Parse the start of a file of `n_bytes`, of which the disk holds `real_bytes`, and read on as needed.

    Returns the header and the bytes that were read.
    """
    limit = min(n_bytes, MAX_HEADER_BYTES, real_bytes + HOLE_BYTES)
    data, end = bytearray(), min(_FIRST_BYTES, limit)
    while True:
        while len(data) < end and (piece := stream.read(min(_PIECE_BYTES, end - len(data)))):
            data += piece
        try:
            return parse(data, n_bytes, name, known), data
        except TruncatedFile as cut:
            needed = cut.needed_bytes
            if not needed or needed > n_bytes or len(data) < end:  # the last: the file has just been cut
                raise
        if needed > limit:
            most = f"the disk holds {format_bytes(real_bytes)} of it"
            if limit == MAX_HEADER_BYTES:
                most = f"no model's is longer than {format_bytes(limit)}"
            raise CorruptHeader(f"{name} says its header goes on past byte {limit:,}, but {most}")
        end = min(max(needed, _GROWTH * end), limit)


def _not_a_file(path: Path) -> ModelNotFound | ModelFileError:
    if path.is_dir():
        names = list(by_model(file.name for file in path.glob("*.gguf")))
        return ModelNotFound(f"{path} is a directory; {_listed(names) or 'there is no .gguf file in it'}")
    if path.exists():
        return ModelFileError(f"{path} is not a regular file")
    is_there = path.parent.is_dir()
    hint = _listed(list(by_model(file.name for file in path.parent.glob("*.gguf"))) if is_there else [])
    return ModelNotFound(f"there is no file {path}" + (f"; {hint}" if hint else ""))


def _listed(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"the models there are {', '.join(names[:5])}{more}"
