"""Read bytes of files on servers by range requests (RFC 9110, sections 13 and 14), with their errors."""

import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx

from vram_llm.errors import (
    AccessDenied,
    ChangedOnServer,
    ModelNotFound,
    NoRanges,
    RemoteError,
    TruncatedFile,
    VramLLMError,
)
from vram_llm.model.location import RemoteFile
from vram_llm.units import MIB, format_bytes

CONNECT_S = 10.0
READ_S = 30.0  # between two pieces of an answer
ANSWER_S = 300.0  # a whole answer
MAX_PAGE_BYTES = 16 * MIB
_MAX_REDIRECTS = 10
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HubEndpoint:
    """The address of a hub, and the token that only this server gets."""

    url: str
    token: str | None

    def covers(self, url: str) -> bool:
        """Whether `url` is on that server: the same scheme, host and port."""
        return _origin(url) == _origin(self.url)

    def headers_for(self, url: str) -> dict[str, str]:
        """The headers that authorise a request for `url`."""
        return {"Authorization": f"Bearer {self.token}"} if self.token and self.covers(url) else {}


@dataclass(frozen=True, slots=True)
class FileVersion:
    """A version of a file: equal versions have equal bytes."""

    tag: str  # ETag, else Last-Modified, else empty
    n_bytes: int


@dataclass(frozen=True, slots=True)
class FileBytes:
    """Bytes of a file, and the version of the file."""

    data: bytes
    version: FileVersion


@dataclass(frozen=True, slots=True)
class ResponsePage:
    """A whole answer, and the address of the next page if the server splits a list into pages."""

    data: bytes
    next_url: str | None


class HttpClient:
    """An HTTP client, to be closed. Several threads may use it."""

    def __init__(self, endpoint: HubEndpoint) -> None:
        self._endpoint = endpoint
        try:
            self._client = httpx.Client(
                timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
                follow_redirects=True,
                max_redirects=_MAX_REDIRECTS,
                headers={"Accept-Encoding": "identity", "User-Agent": "vram-llm"},
            )
        except (ImportError, OSError, ValueError) as error:
            raise RemoteError(
                f"no HTTP client can be made here: {error}; check the variables HTTPS_PROXY, ALL_PROXY and"
                " SSL_CERT_FILE"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def read_range(
        self, file: RemoteFile, start: int, n_bytes: int, kept: FileBytes | None = None
    ) -> FileBytes:
        """`n_bytes` of the file from byte `start` on, or fewer at its end.

        If the file still has the version of `kept`, `kept` is returned and no body is read. Raises
        ModelNotFound, TruncatedFile (an empty file) or RemoteError and its subclasses.
        """
        headers = {"Range": f"bytes={start}-{start + n_bytes - 1}"}
        if kept is not None and kept.version.tag.endswith('"'):
            headers["If-None-Match"] = kept.version.tag
        with self._get(file.url, file.label, headers) as response:
            if response.status_code == HTTPStatus.NOT_MODIFIED and kept is not None:
                return kept
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                raise self._refusal(response, file, start)
            length, version = _range_of(response, file.label, start, n_bytes)
            if kept is not None and version == kept.version:
                return kept
            return FileBytes(_body(response, file.label, length, at_most=length), version)

    def read_page(self, url: str, label: str) -> ResponsePage:
        """A small answer as a whole. Raises ModelNotFound or RemoteError and its subclasses."""
        with self._get(url, label, {}) as response:
            if response.status_code != HTTPStatus.OK:
                raise self._refusal(response, RemoteFile(url, label), 0)
            following = response.links.get("next", {}).get("url")
            data = _body(response, label, None, at_most=MAX_PAGE_BYTES)
            return ResponsePage(data, str(response.url.join(following)) if following else None)

    @contextmanager
    def _get(self, url: str, label: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """The answer to a GET, with an unread body. On a redirect to another host httpx drops the token."""
        host = _host(url)
        try:
            with self._client.stream(
                "GET", url, headers={**headers, **self._endpoint.headers_for(url)}
            ) as response:
                yield response
        except httpx.ConnectTimeout as error:
            raise RemoteError(
                f"{host} does not answer within {CONNECT_S:g} s; check the address and the network"
            ) from error
        except httpx.TimeoutException as error:
            raise RemoteError(f"{host} fell silent for {READ_S:g} s on {label}; try again later") from error
        except httpx.ConnectError as error:
            raise RemoteError(_no_connection(host, error)) from error
        except httpx.TooManyRedirects as error:
            raise RemoteError(
                f"{label} is redirected more than {_MAX_REDIRECTS} times; check the address"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RemoteError(f"reading {label} from {host} failed: {_reason(error)}; try again") from error

    def _refusal(self, response: httpx.Response, file: RemoteFile, start: int) -> VramLLMError:
        """The error for an answer with an unexpected status."""
        status, host = response.status_code, _host(str(response.url))
        if status == HTTPStatus.OK:
            return _whole_file(response, file.label, host)
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return AccessDenied(self._no_access(file, host, status))
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            return ModelNotFound(f"there is no {file.label} on {host} ({status}); check the name")
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if response.headers.get("content-range", "").strip() == "bytes */0" and not start:
                return TruncatedFile(f"{file.label} is empty on {host}")
            if start:
                return ChangedOnServer(f"{file.label} has become shorter on {host} while it was read")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return RemoteError(f"{host} got too many requests from here (429); wait a few minutes")
        phrase = next((known.phrase for known in HTTPStatus if known == status), "an unknown status")
        again = "the fault is the server's; try again later" if status >= 500 else "check the address"
        return RemoteError(f"{host} answers {status} ({phrase}) for {file.label}; {again}")

    def _no_access(self, file: RemoteFile, host: str, status: int) -> str:
        if not self._endpoint.covers(file.url):
            return (
                f"{host} requires a log-in for {file.label} ({status}); write the address as"
                " https://USER:PASSWORD@..., or download the file and name it by its path"
            )
        if self._endpoint.token is None:
            return (
                f"{file.label} is gated, private or not there ({host} answers {status}): check the name, and"
                " set HF_TOKEN to a token that may read it"
            )
        return (
            f"the token of HF_TOKEN, or of the log-in saved here, may not read {file.label} ({host} answers"
            f" {status}): check the name, and accept the model's terms on its page or use another token"
        )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _host(url: str) -> str:
    """The server's name, with its port unless that is the scheme's default."""
    scheme, host, port = _origin(url)
    return f"{host}" if port == _DEFAULT_PORTS.get(scheme) else f"{host}:{port}"


def _reason(error: BaseException) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)).rstrip(".") or type(error).__name__


def _no_connection(host: str, error: httpx.ConnectError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            why = getattr(cause, "verify_message", "") or (cause.reason or "").replace("_", " ").lower()
            return (
                f"no safe connection to {host}: TLS failed ({why or cause}); check the address, or set"
                " SSL_CERT_FILE to your own authority's certificate"
            )
        cause = cause.__cause__ or cause.__context__
    return f"{host} cannot be reached: {_reason(error)}; check the address and the network"


def _whole_file(response: httpx.Response, label: str, host: str) -> RemoteError:
    if response.headers.get("content-type", "").startswith("text/html"):
        return RemoteError(
            f"{label} is a web page, not a model; give the address of the file itself (on a hub, /resolve/"
            " in place of /blob/)"
        )
    length = response.headers.get("content-length", "")
    size = f"all {format_bytes(int(length))}" if length.isdecimal() and length.isascii() else "all"
    return NoRanges(
        f"{host} does not support ranges: it would send {size} of {label} for its header; download the file"
        " and name it by its path"
    )


def _range_of(response: httpx.Response, label: str, start: int, asked: int) -> tuple[int, FileVersion]:
    """The number of bytes in a 206, and the version of the file."""
    content_range = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    first, last, size = map(int, match.groups()) if match else (-1, -1, -1)
    if first != start or last != min(start + asked, size) - 1 or last < first:
        raise RemoteError(
            f"{_host(str(response.url))} was asked for bytes {start}-{start + asked - 1} of {label} and sends"
            f" {content_range[:80]!r}; download the file and name it by its path"
        )
    if response.headers.get("content-encoding", "identity") != "identity":
        raise NoRanges(
            f"{_host(str(response.url))} sends {label} compressed against our request; download the file and"
            " name it by its path"
        )
    tag = response.headers.get("etag") or response.headers.get("last-modified") or ""
    return last - first + 1, FileVersion(tag, size)


def _body(response: httpx.Response, label: str, promised: int | None, at_most: int) -> bytes:
    """The answer's body. Raises RemoteError if its length is not the promised one."""
    host, deadline = _host(str(response.url)), time.monotonic() + ANSWER_S
    data = bytearray()
    for piece in response.iter_raw():
        data += piece
        if len(data) > at_most:
            raise RemoteError(f"{host} sends more than {at_most:,} bytes for {label}; check the address")
        if time.monotonic() > deadline:
            raise RemoteError(f"{host} took more than {ANSWER_S:g} s for {label}; try again later")
    if promised is not None and len(data) != promised:
        raise RemoteError(
            f"{host} sent {len(data):,} bytes of {label} where it promised {promised:,}; try again"
        )
    return bytes(data)
