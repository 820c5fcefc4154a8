"""The file of API keys: their names, scopes and models, and scrypt's hashes of them. No key is in it.

A key is "sk-ID-SECRET". Its id is in the file, so that one hash, not one for each key, is computed for a key
that a client sends.
"""

import fcntl
import hmac
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from hashlib import scrypt
from pathlib import Path
from secrets import token_bytes, token_hex, token_urlsafe
from typing import Annotated

import msgspec
from msgspec.structs import replace

from vram_llm.errors import BadKeysFile
from vram_llm.state_file import read_state, write_state

_VERSION = 1  # another version may have other parameters of scrypt
_N, _R, _P = 2**14, 8, 1  # 16 MiB and some 50 ms a hash
_MAX_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


class KeyScope(StrEnum):
    """The kinds of requests that a key may send."""

    INFERENCE = "inference"  # every route that is not in server.api_keys.ROUTE_SCOPES
    METRICS = "metrics"
    ADMIN = "admin"  # everything


_Count = Annotated[int, msgspec.Meta(ge=1)]


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The limits of a key; None: no limit. Keys that use the engine at once share it by their weights."""

    weight: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    max_requests: _Count | None = None  # in flight
    max_sequences: _Count | None = None  # in flight; a request with `n` has as many
    requests_per_minute: _Count | None = None
    tokens_per_minute: _Count | None = None  # computed, of prompts and answers


NO_LIMITS = KeyLimits()


class StoredKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key without its secret. `models` are names as /v1/models lists them; None: all."""

    id: str
    salt: bytes
    hash: bytes
    scopes: tuple[KeyScope, ...]
    models: tuple[str, ...] | None = None
    limits: KeyLimits = NO_LIMITS

    def matches(self, key: bytes) -> bool:
        """Whether `key` is this key. Takes some 50 ms."""
        return hmac.compare_digest(_hash(key, self.salt), self.hash)


class _KeysFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: int
    keys: dict[str, StoredKey]


def id_of(key: bytes) -> str:
    """The id in a key; "" if it has none."""
    parts = key.decode("latin-1").split("-", 2)
    return parts[1] if len(parts) == 3 and parts[0] == "sk" else ""


def read_keys(path: Path) -> dict[str, StoredKey]:
    """The keys by name. Raises BadKeysFile."""
    try:
        # a secret that Kubernetes mounts is a link
        file = msgspec.json.decode(read_state(path, _MAX_BYTES, follow=True), type=_KeysFile)
    except OSError as error:
        raise BadKeysFile(
            f"the keys in {path} cannot be read: {error.strerror or error}; `vram-llm keys add NAME` makes "
            "the file"
        ) from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadKeysFile(f"{path} is not a file of keys as `vram-llm keys add` writes it: {error}") from None
    if file.version != _VERSION:
        raise BadKeysFile(f"the keys in {path} are of another version of this program")
    if not all(map(_NAME.fullmatch, file.keys)):
        raise BadKeysFile(f"a name in {path} has other characters than letters, digits and . _ @ -")
    return file.keys


def add_key(
    path: Path,
    name: str,
    scopes: Sequence[KeyScope],
    models: Sequence[str] = (),
    limits: KeyLimits = NO_LIMITS,
) -> str:
    """Make a key, add its hash to the file, and return it. Without `models` it may use all.

    Raises BadKeysFile, also if the name is taken.
    """
    if not _NAME.fullmatch(name):
        raise BadKeysFile(f"{name!r} is no name of a key: take up to 64 letters, digits and . _ @ -")
    key_id, salt = token_hex(6), token_bytes(16)
    key = f"sk-{key_id}-{token_urlsafe(32)}"
    with _changed(path) as keys:
        if name in keys:
            raise BadKeysFile(f"{path} has a key {name!r}; remove it first: `vram-llm keys remove {name}`")
        keys[name] = StoredKey(
            id=key_id,
            salt=salt,
            hash=_hash(key.encode(), salt),
            scopes=tuple(scopes),
            models=tuple(models) or None,
            limits=limits,
        )
    return key


def change_key(path: Path, name: str, limits: Mapping[str, float | None]) -> None:
    """Change some of the limits of a key. Raises BadKeysFile, also if there is none of that name."""
    with _changed(path) as keys:
        key = _named(path, keys, name)
        keys[name] = replace(key, limits=replace(key.limits, **limits))


def remove_key(path: Path, name: str) -> None:
    """Remove a key by its name. Raises BadKeysFile, also if there is none of that name."""
    with _changed(path) as keys:
        _named(path, keys, name)
        del keys[name]


def _named(path: Path, keys: Mapping[str, StoredKey], name: str) -> StoredKey:
    if name not in keys:
        raise BadKeysFile(f"{path} has no key {name!r}; `vram-llm keys list` shows the names")
    return keys[name]


def _hash(key: bytes, salt: bytes) -> bytes:
    return scrypt(key, salt=salt, n=_N, r=_R, p=_P, dklen=32)


@contextmanager
def _changed(path: Path) -> Iterator[dict[str, StoredKey]]:
    """The keys to change; the file is replaced at the end, with mode 0600. One program at a time."""
    path = path.resolve()  # a link stays
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            keys = read_keys(path) if path.exists() else {}
            yield keys
            _replace(path, keys)
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise BadKeysFile(f"{path} cannot be written: {error.strerror or error}") from None


def _replace(path: Path, keys: dict[str, StoredKey]) -> None:
    text = msgspec.json.format(msgspec.json.encode(_KeysFile(version=_VERSION, keys=keys)), indent=2)
    write_state(path, text + b"\n", durable=True)
