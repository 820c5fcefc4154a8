"""Read the header of a model on a server: only the bytes with the metadata and the tensor list."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from vram_llm.errors import ChangedOnServer, CorruptHeader, MissingShard, ModelNotFound, TruncatedFile
from vram_llm.model import header_cache, hub
from vram_llm.model.gguf import TruncatedArray, parse
from vram_llm.model.header import Header, join_shards
from vram_llm.model.header_file import MAX_HEADER_BYTES, ReadFile
from vram_llm.model.http_client import FileBytes, HttpClient
from vram_llm.model.known_arrays import KnownArrays
from vram_llm.model.location import HUB, RemoteFile
from vram_llm.units import KIB, MIB, format_bytes

FIRST_BYTES = 64 * KIB  # a whole header without a vocabulary, such as those of later parts
NEXT_BYTES = MIB
_AT_ONCE = 4


def read_remote_header(name: str) -> Header:
    """Read the header of the model `name`: a URL or an `hf:` name (hub.py), or any part of a split model.

    Raises ModelNotFound, RemoteError and its subclasses, and the errors of `read_header` for a file.
    """
    endpoint = hub.endpoint()
    with HttpClient(endpoint) as client:
        return read_header_at(
            hub.find(name, endpoint, client) if name.lower().startswith(HUB) else _at(name), client
        )


def read_header_at(file: RemoteFile, client: HttpClient, known: KnownArrays | None = None) -> Header:
    """The header of the model at `file`, any part of it. Raises the errors of `read_remote_header`.

    Of `known` arrays, which other files of the same model have added, only the beginning is fetched.
    """
    known = KnownArrays() if known is None else known
    return join_shards(file, _read_file(client, file, known), lambda parts: _read_parts(client, parts))


def _at(url: str) -> RemoteFile:
    try:
        file = RemoteFile.at(url)
        usable = bool(urlsplit(url).hostname and file.name)
    except ValueError:
        usable = False
    if not usable:
        raise ModelNotFound("the address given names no file; write it like https://HOST/FOLDER/FILE.gguf")
    return file


def _read_parts(client: HttpClient, parts: list[RemoteFile]) -> Generator[ReadFile, None, None]:
    """The parts' headers, read a few at a time until the first error."""
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        reads = [pool.submit(_read_file, client, part, KnownArrays()) for part in parts]
        for part, read in zip(parts, reads, strict=True):
            try:
                yield read.result()
            except ModelNotFound as error:
                raise MissingShard(
                    f"{part.name}, one of the model's {len(parts) + 1} parts, is not in {part.parent}"
                ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _read_file(client: HttpClient, file: RemoteFile, known: KnownArrays) -> ReadFile:
    """One file's header. If the file is replaced meanwhile, it is read again once."""
    try:
        return _read_version(client, file, known)
    except ChangedOnServer:
        return _read_version(client, file, known)


def _read_version(client: HttpClient, file: RemoteFile, known: KnownArrays) -> ReadFile:
    kept = header_cache.load(file.url)
    got = client.read_range(file, 0, FIRST_BYTES, kept)
    while True:
        try:
            contents = parse(got.data, got.version.n_bytes, file.name, known)
            break
        except TruncatedFile as error:
            if not error.needed_bytes:
                raise
            rest = known.rest_of(error.array, got.data) if isinstance(error, TruncatedArray) else b""
            if rest and len(got.data) + len(rest) < got.version.n_bytes:
                got = FileBytes(got.data + rest, got.version)
                end = min(len(got.data) + FIRST_BYTES, got.version.n_bytes)
            else:
                end = _next_end(file, got.version.n_bytes, error.needed_bytes)
        more = client.read_range(file, len(got.data), end - len(got.data))
        if more.version != got.version:
            raise ChangedOnServer(
                f"{file.label} was replaced on the server while it was read, twice over; try again later"
            )
        got = FileBytes(got.data + more.data, got.version)
    if got is not kept:
        header_cache.save(file.url, FileBytes(got.data[: contents.data_offset], got.version))
    return ReadFile(contents, got.version.n_bytes)


def _next_end(file: RemoteFile, n_bytes: int, needed_bytes: int) -> int:
    """The end of the next read, for a header of at least `needed_bytes`.

    It is twice `needed_bytes`: a list of strings shows its length only string by string, and each read costs
    a round trip.
    """
    if needed_bytes > n_bytes:
        raise TruncatedFile(
            f"{file.label} is cut short: its header goes on past the {n_bytes:,} bytes the server has of it"
        )
    if needed_bytes > MAX_HEADER_BYTES:
        raise CorruptHeader(
            f"{file.label} says its header is longer than {format_bytes(MAX_HEADER_BYTES)}; no model's is"
        )
    return min(max(2 * needed_bytes, NEXT_BYTES), n_bytes, MAX_HEADER_BYTES)
