"""Read a model's header from a file, a URL or an `hf:` name."""

from pathlib import Path

from vram_llm.model.header import Header, read_local_header
from vram_llm.model.location import is_remote


def read_header(path: str | Path) -> Header:
    """Read the header of the model at `path`, which may be any shard of a split one, here or on a server.

    Raises ModelNotFound, ModelFileError, TruncatedFile, CorruptHeader, MissingShard or, for a URL or an `hf:`
    name, RemoteError and its subclasses.
    """
    if isinstance(path, str) and is_remote(path):
        from vram_llm.model.remote import read_remote_header  # imports an HTTP client

        return read_remote_header(path)
    return read_local_header(Path(path))
