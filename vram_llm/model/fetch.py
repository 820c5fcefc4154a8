"""Download a model from a hub into huggingface_hub's cache, where other programs find it too.

An interrupted download keeps its bytes, and the next try continues from there. huggingface_hub's guide to its
cache describes the layout: blobs by content, snapshots of links by commit, refs by branch. Its own download
is not used: since version 2 it starts again from the first byte.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from vram_llm.errors import DiskFull, RemoteError
from vram_llm.model import hub
from vram_llm.model.http_client import HttpClient
from vram_llm.model.library import hub_cache, repository
from vram_llm.model.location import RemoteFile
from vram_llm.state_file import open_regular
from vram_llm.units import MIB, format_bytes

PIECE_BYTES = 16 * MIB  # of one request: the most that a broken connection loses
OnBytes = Callable[[int, int], None]


def download(names: Sequence[str], on_bytes: OnBytes) -> Path:
    """Fetch the files of one model, each named "hf:ORG/REPO/FILE". Returns the path of the first.

    `on_bytes` gets the bytes on this disk and the total bytes. Raises ModelNotFound, DiskFull, RemoteError
    and its subclasses.
    """
    model, endpoint = hub.parse(names[0]), hub.endpoint()
    folder = repository(model.repo)
    with HttpClient(endpoint) as client:
        commit = hub.commit_of(model, endpoint, client)
        listed = hub.list_files(model, endpoint, client)
        files = [listed[name.removeprefix(f"{model.label}/")] for name in names]
        blobs = [_blob(folder, file) for file in files]
        here = [_bytes_here(blob) for blob in blobs]
        total = sum(file.size for file in files)
        check_disk(total - sum(here))
        for i, (file, blob) in enumerate(zip(files, blobs, strict=True)):
            url = f"{endpoint.url}/{model.repo}/resolve/{commit}/{quote(file.path)}"
            others = sum(done.size for done in files[:i]) + sum(here[i + 1 :])
            _fetch(client, RemoteFile(url, names[i]), file.size, blob, _of_total(others, total, on_bytes))
    links = [
        _link(folder / "snapshots" / commit / file.path, blob)
        for file, blob in zip(files, blobs, strict=True)
    ]
    if model.revision != commit:
        ref = folder / "refs" / (model.revision or "main")
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit, encoding="utf-8")
    return links[0]


def check_disk(n_bytes: int) -> None:
    """Raises DiskFull if the cache's disk has less free space than `n_bytes`."""
    folder = hub_cache().absolute()
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if n_bytes > free_bytes:
        free, short = format_bytes(free_bytes), format_bytes(n_bytes - free_bytes)
        raise DiskFull(
            f"{hub_cache()} has {free} free, {short} less than the {format_bytes(n_bytes)} to fetch;"
            " free some, or set HF_HUB_CACHE to a folder elsewhere"
        )


def _of_total(others: int, total: int, on_bytes: OnBytes) -> Callable[[int], None]:
    return lambda n_bytes: on_bytes(others + n_bytes, total)


def _blob(folder: Path, file: hub.HubFile) -> Path:
    content = file.content_id
    if not re.fullmatch(r"[0-9a-f]{40,64}", content):
        raise RemoteError(f"the hub names the content of {file.path} {content[:60]!r}, which is not a hash")
    return folder / "blobs" / content


def _bytes_here(blob: Path) -> int:
    for path in (blob, _unfinished(blob)):
        if path.exists():
            return path.stat().st_size
    return 0


def _unfinished(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.vram-llm.incomplete")


def _fetch(
    client: HttpClient, file: RemoteFile, size: int, blob: Path, on_bytes: Callable[[int], None]
) -> None:
    """Download the rest of `blob` up to its full `size`. Only one program at a time writes it."""
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with open(open_regular(_unfinished(blob), flags, mode=0o666), "ab") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RemoteError(f"another program is fetching {file} already; let it finish") from None
        done = out.tell()
        while done < size:
            on_bytes(done)
            part = client.read_range(file, done, min(PIECE_BYTES, size - done))
            out.write(part.data)
            out.flush()
            done += len(part.data)
        on_bytes(done)
    _unfinished(blob).rename(blob)


def _link(link: Path, blob: Path) -> Path:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link
