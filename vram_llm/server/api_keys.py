"""API keys of clients: who sent a request, and what it may ask for."""

import asyncio
import hmac
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2s
from ipaddress import ip_network
from secrets import token_bytes

from starlette.types import Scope

from vram_llm.server.config import ServerConfig
from vram_llm.server.key_usage import KeyUsage
from vram_llm.server.keys_file import KeyScope, StoredKey, id_of, read_keys

ROUTE_SCOPES = {
    "/metrics": KeyScope.METRICS,
    "/slots": KeyScope.METRICS,
    "/status": KeyScope.METRICS,
    "/lora-adapters": KeyScope.ADMIN,
    "/plan": KeyScope.ADMIN,
    "/logs": KeyScope.ADMIN,
    "/models/load": KeyScope.ADMIN,
    "/models/unload": KeyScope.ADMIN,
    "/models/sleep": KeyScope.ADMIN,
    "/models/reload": KeyScope.ADMIN,
}  # by path; other routes need KeyScope.INFERENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key of this server. `models` are the names of models that it may use; None: all.

    `owner` is the number of what it stores. Keys of one `cache_namespace` share beginnings of prompts.
    """

    name: str
    owner: int = 0
    cache_namespace: int = 0
    scopes: frozenset[KeyScope] = frozenset(KeyScope)
    models: frozenset[str] | None = None
    usage: KeyUsage = field(default_factory=KeyUsage, compare=False)  # and its limits

    def may_ask(self, path: str) -> bool:
        """Whether its scopes suffice for a route."""
        return KeyScope.ADMIN in self.scopes or scope_of(path) in self.scopes

    def may_use(self, model: str) -> bool:
        """Whether it may use a model of that name."""
        return self.models is None or model in self.models


ANYBODY = ApiKey(name="")  # a client of a server without keys; its address becomes the name
STRANGER = ApiKey(name="a stranger", scopes=frozenset())  # a client without a key
current_key: ContextVar[ApiKey] = ContextVar("current_key", default=ANYBODY)  # of the request that is served


@lru_cache(maxsize=256)
def anybody_at(address: str) -> ApiKey:
    """The key of a client that has none, at an address."""
    return replace(ANYBODY, name=address)


def scope_of(path: str) -> KeyScope:
    """The scope that a route needs."""
    return ROUTE_SCOPES.get(path, KeyScope.INFERENCE)


def client_address(scope: Scope) -> str:
    """The client's address; of IPv6 the first 64 bits, since the others are the client's own to choose."""
    host: str = (scope.get("client") or ("", 0))[0]
    if ":" not in host:
        return host
    try:
        return str(ip_network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return host


class Keyring:
    """The keys of `config`: those given as text, which have no names, and those of its file.

    The time that `find` takes tells neither a part of a key nor its length. Raises BadKeysFile.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._path = config.keys_file
        self._secret = token_bytes(blake2s.MAX_KEY_SIZE)
        self._shares_cache = config.shared_prefix_cache
        self._given = [
            (self._digest(key.encode()), self._new(f"#{number}", key))
            for number, key in enumerate(config.api_keys, start=1)
        ]
        self._stored: dict[str, tuple[StoredKey, ApiKey]] = {}  # by id
        self._usages: dict[str, KeyUsage] = {}  # by id; they outlive a reading of the file
        self._found: dict[bytes, ApiKey] = {}  # keys of the file that clients sent, by digest
        self._hashing = asyncio.Lock()  # wrong keys take the time of one core at most
        self.is_needed = config.needs_key
        self.read()

    def read(self) -> int:
        """Read the file again; returns the number of its keys. Raises BadKeysFile; then the keys stay."""
        if self._path is None:
            return 0
        stored = read_keys(self._path)
        self._usages = {key.id: self._usages.get(key.id) or KeyUsage() for key in stored.values()}
        for key in stored.values():
            self._usages[key.id].change(key.limits)
        self._stored = {
            key.id: (
                key,
                replace(
                    self._new(name, key.id),
                    scopes=frozenset(key.scopes),
                    models=_set(key.models),
                    usage=self._usages[key.id],
                ),
            )
            for name, key in stored.items()
        }
        self._found.clear()
        return len(stored)

    async def find(self, key: bytes) -> ApiKey | None:
        """The key that a client sent; None if it is not one of this server's."""
        digest = self._digest(key)
        of_text = [own for known, own in self._given if hmac.compare_digest(digest, known)]
        own = of_text[0] if of_text else self._found.get(digest)
        key_id = id_of(key)
        candidate = self._stored.get(key_id)
        if own is not None or candidate is None:
            return own
        async with self._hashing:
            is_right = await asyncio.to_thread(candidate[0].matches, key)
        now = self._stored.get(key_id)  # the file may have been read meanwhile
        if not is_right or now is None or now[0] != candidate[0]:
            return None
        self._found[digest] = now[1]
        return now[1]

    def _new(self, name: str, text: str) -> ApiKey:
        """A key whose number is made of `text`, so that it stays when the file is read again."""
        owner = 1 + int.from_bytes(self._digest(text.encode())[:6])
        return ApiKey(name=name, owner=owner, cache_namespace=0 if self._shares_cache else owner)

    def _digest(self, key: bytes) -> bytes:
        return blake2s(key, key=self._secret).digest()


def _set(names: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
