"""Bodies become typed objects: large ones in a thread, one at a time, after their values are counted.

pydantic holds the interpreter lock while it reads a body, so that nothing else runs meanwhile, in whichever
thread it is. Bounds on the number of values keep that under some 0.3 s.
"""

import asyncio
import contextlib
import ctypes
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from vram_llm.errors import Overloaded
from vram_llm.server.errors import BodyTooLarge
from vram_llm.server.multipart import FormPart, form_parts
from vram_llm.server.schemas import parse
from vram_llm.server.worker_threads import BODIES, run_in
from vram_llm.units import format_bytes

T = TypeVar("T", bound=BaseModel)
MAX_VALUES = 1_000_000  # of JSON: a prompt of a million token ids
MAX_STRINGS = 400_000  # of JSON, names of fields among them: 100,000 messages
LARGE_BYTES = 1 << 18
_TRIM_BYTES = 64 << 20
_BACKSLASH = ord("\\")


class BodyBudget:
    """Counts the bytes of all bodies that are received and not yet parsed.

    Beyond `most_bytes`, up to twice as many, only clients with less than their share of them may send more.
    So one client, however slowly it sends, does not keep the others from sending.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = self._peak_bytes = 0
        self._of_clients: Counter[str] = Counter()

    @contextmanager
    def body(self, client: str = "") -> "Iterator[HeldBody]":
        """The count of one body of a client, which ends with the block or when it is parsed."""
        held = HeldBody(self, client)
        token = _held.set(held)
        try:
            yield held
        finally:
            _held.reset(token)
            held.release()

    def take(self, n_bytes: int, client: str) -> None:
        """Count more bytes of a client. Raises Overloaded."""
        own, n_clients = self._of_clients[client], len(self._of_clients.keys() | {client})
        has_less = own + n_bytes <= self._most_bytes // n_clients
        most_bytes = self._most_bytes * (2 if has_less else 1)
        if self._bytes + n_bytes > most_bytes:
            raise Overloaded(
                f"The bodies that clients are sending have {format_bytes(self._bytes)} together and "
                f"{format_bytes(self._most_bytes)} is the most; try again in 5 s",
                5.0,
            )
        self._bytes += n_bytes
        self._of_clients[client] = own + n_bytes
        self._peak_bytes = max(self._peak_bytes, self._bytes)

    def give_back(self, n_bytes: int, client: str) -> None:
        """Count fewer bytes of a client; after many, the C library gives memory back to the system."""
        self._bytes -= n_bytes
        self._of_clients[client] -= n_bytes
        if not self._of_clients[client]:
            del self._of_clients[client]
        if not self._bytes and self._peak_bytes > _TRIM_BYTES:
            self._peak_bytes = 0
            asyncio.get_running_loop().call_later(1.0, BODIES.submit, _trim)


class HeldBody:
    """The bytes of one body that are in memory."""

    def __init__(self, budget: BodyBudget, client: str) -> None:
        self._budget = budget
        self._client = client
        self._bytes = 0

    def add(self, n_bytes: int) -> None:
        """Count received bytes. Raises Overloaded."""
        self._budget.take(n_bytes, self._client)
        self._bytes += n_bytes

    def release(self) -> None:
        """The body is parsed, or its request has ended."""
        self._budget.give_back(self._bytes, self._client)
        self._bytes = 0


_held: ContextVar[HeldBody | None] = ContextVar("held", default=None)


async def read_fields(kind: type[T], http: Request) -> T:
    """The request's body as `kind`. Raises RequestError naming the field, BodyTooLarge, Overloaded."""
    body = await _body(http)
    try:
        if len(body) < LARGE_BYTES:
            return parse(kind, body)
        return await run_in(BODIES, _parse_large, kind, body)
    finally:
        _release()


async def read_form(http: Request) -> list[FormPart]:
    """The fields of a form. Raises RequestError, BodyTooLarge, Overloaded."""
    body = await _body(http)
    try:
        return form_parts(body, http.headers.get("content-type", ""))
    finally:
        _release()


async def _body(http: Request) -> bytes:
    """The whole body, which `http.body()` would keep with the request. Raises ClientDisconnect."""
    parts = []
    while (message := await http.receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
    raise ClientDisconnect


def _release() -> None:
    if (held := _held.get()) is not None:
        held.release()


def _trim() -> None:
    with contextlib.suppress(AttributeError, OSError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


def count_bytes(n_bytes: int) -> None:
    """Count bytes that the body of the request has grown by. Raises Overloaded."""
    if (held := _held.get()) is not None:
        held.add(n_bytes)


def _parse_large(kind: type[T], body: bytes) -> T:
    check_values(body)
    return parse(kind, body)


def check_values(body: bytes) -> None:
    """Raises BodyTooLarge for JSON of too many values or strings; takes time for each string."""
    if _n_values(body, 0, len(body)) <= MAX_VALUES and body.count(b'"') <= 2 * MAX_STRINGS:
        return  # with the commas and quotes of texts
    n_values, done = 0, 0
    for n_strings, (start, end) in enumerate(_strings(body), 1):
        n_values += _n_values(body, done, start)
        done = end
        if n_values > MAX_VALUES or n_strings > MAX_STRINGS:
            raise _too_many()
    if n_values + _n_values(body, done, len(body)) > MAX_VALUES:
        raise _too_many()


def _too_many() -> BodyTooLarge:
    return BodyTooLarge(
        f"The body has more than {MAX_VALUES:,} JSON values, or {MAX_STRINGS:,} strings, the most taken "
        "here; send fewer messages, parts or token ids"
    )


def _n_values(body: bytes, start: int, end: int) -> int:
    """The commas and opening brackets of a part: as many as its values, or a few less."""
    return sum(body.count(sign, start, end) for sign in (b",", b"[", b"{"))


def _strings(body: bytes) -> Iterator[tuple[int, int]]:
    """The bounds of each JSON string, quotes included."""
    end = -1
    while (start := body.find(b'"', end + 1)) >= 0:
        end = start
        while (end := body.find(b'"', end + 1)) >= 0:
            before = end - 1
            while body[before] == _BACKSLASH:
                before -= 1
            if (end - 1 - before) % 2 == 0:
                break
        if end < 0:
            return
        yield start, end + 1
