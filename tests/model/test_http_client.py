import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.model.range_server import Answer, RangeServer, running
from tests.patience import PATIENCE_S
from vram_llm.errors import AccessDenied, ModelNotFound, NoRanges, RemoteError, TruncatedFile, VramLLMError
from vram_llm.model import http_client
from vram_llm.model.http_client import FileBytes, FileVersion, HttpClient, HubEndpoint
from vram_llm.model.location import RemoteFile

OTHER = HubEndpoint("https://hub.test", "secret")


def ask(
    url: str, endpoint: HubEndpoint = OTHER, n_bytes: int = 10, kept: FileBytes | None = None
) -> FileBytes:
    with HttpClient(endpoint) as client:
        return client.read_range(RemoteFile.at(url), 0, n_bytes, kept)


def whole(body: bytes, **headers: str) -> Answer:
    said = {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}", "ETag": '"a"'}
    return Answer(206, said | {name.replace("_", "-"): value for name, value in headers.items()}, body)


def test_a_part_and_its_version(server: RangeServer) -> None:
    server.answers["/m"] = whole(b"0123456789")
    assert ask(server.url + "/m") == FileBytes(b"0123456789", FileVersion('"a"', 10))
    _, headers = server.seen[0]
    assert (headers["range"], headers["accept-encoding"]) == ("bytes=0-9", "identity")


def test_a_server_without_tags_is_known_by_its_date(server: RangeServer) -> None:
    server.answers["/m"] = whole(b"01", ETag="", Last_Modified="Sat, 01 Jan 2000 00:00:00 GMT")
    assert ask(server.url + "/m").version == FileVersion("Sat, 01 Jan 2000 00:00:00 GMT", 2)


@pytest.mark.parametrize("compares", [True, False])
def test_what_is_kept_and_still_so_is_not_sent(server: RangeServer, compares: bool) -> None:
    kept = FileBytes(b"kept", FileVersion('"a"', 2))
    server.answers["/m"] = Answer(304) if compares else whole(b"01")
    assert ask(server.url + "/m", kept=kept) is kept
    assert server.seen[0][1]["if-none-match"] == '"a"'
    server.answers["/m"] = whole(b"01", ETag='"b"')
    assert ask(server.url + "/m", kept=kept) == FileBytes(b"01", FileVersion('"b"', 2))


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (Answer(200, {}, b"0123"), NoRanges, "does not support ranges: it would send all 4 B of"),
        (Answer(200, {"Content-Type": "text/html"}, b"<html>"), RemoteError, "is a web page, not a model"),
        (Answer(404), ModelNotFound, "there is no http://.*/m on 127.0.0.1:.* (404)"),
        (Answer(416, {"Content-Range": "bytes */0"}), TruncatedFile, "/m is empty on 127"),
        (Answer(416), RemoteError, r"answers 416 \(.*\) for .*; check the address"),
        (Answer(429), RemoteError, "too many requests from here"),
        (Answer(503), RemoteError, r"answers 503 \(Service Unavailable\) for .* the fault is the server's"),
        (Answer(299), RemoteError, r"answers 299 \(an unknown status\)"),
        (Answer(206), RemoteError, "was asked for bytes 0-9 of .*/m and sends ''"),
        (whole(b"01", Content_Range="bytes 5-6/9"), RemoteError, "and sends 'bytes 5-6/9'"),
        (whole(b"01", Content_Range="bytes 0-1/9"), RemoteError, "and sends 'bytes 0-1/9'"),
        (whole(b"01", Content_Range="bytes 0-1/*"), RemoteError, r"and sends 'bytes 0-1/\*'"),
        (whole(b"0", Content_Range="bytes 0-1/2"), RemoteError, "sent 1 bytes of .* where it promised 2"),
        (whole(b"01", Content_Range="bytes 0-0/1"), RemoteError, "sends more than 1 bytes"),
        (whole(b"01", Content_Encoding="gzip"), NoRanges, "compressed against our request"),
        (whole(b"01", Content_Length="7"), RemoteError, "reading http://.*/m from 127.* failed: peer closed"),
        (Answer(302, {"Location": "/m"}), RemoteError, "redirected more than 10 times"),
        (Answer(302, {"Location": "ftp://x/m"}), RemoteError, "failed: .*; try again"),
    ],
)
def test_answers_that_are_no_use(
    server: RangeServer, answer: Answer, error: type[VramLLMError], sentence: str
) -> None:
    close = {"Connection": "close"} if answer.status != 302 else {}
    server.answers["/m"] = Answer(answer.status, answer.headers | close, answer.body)
    with pytest.raises(error, match=sentence.replace("(404)", r"\(404\)")) as caught:
        ask(server.url + "/m")
    assert type(caught.value) is error


def test_a_server_without_ranges_does_not_send_the_file(server: RangeServer, tmp_path: Path) -> None:
    large = tmp_path / "m"
    large.touch()
    os.truncate(large, 8 * 10**9)
    server.files["/m"] = large
    server.has_ranges = False
    with pytest.raises(NoRanges, match=r"it would send all 7\.45 GiB of"):
        ask(server.url + "/m")
    assert server.sent_bytes < 0.01 * 8 * 10**9


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_nobody_there() -> None:
    with pytest.raises(
        RemoteError, match=r"^127\.0\.0\.1:\d+ cannot be reached: Connection refused; check the address"
    ):
        ask(f"http://127.0.0.1:{free_port()}/m")


def test_a_server_that_speaks_no_tls(server: RangeServer) -> None:
    with pytest.raises(RemoteError, match=r"^no safe connection to 127\.0\.0\.1:\d+: TLS failed \(\w.*\)"):
        ask(server.url.replace("http:", "https:") + "/m")


@pytest.fixture
def silent(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr(http_client, "READ_S", 0.1)
    over = threading.Event()
    server.before = lambda _: over.wait(PATIENCE_S)
    yield server
    over.set()


def test_a_server_that_falls_silent(silent: RangeServer) -> None:
    with pytest.raises(RemoteError, match=r"fell silent for 0\.1 s on http"):
        ask(silent.url + "/m")


def test_an_answer_without_end(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "ANSWER_S", -1.0)
    server.answers["/m"] = whole(b"01")
    with pytest.raises(RemoteError, match=r"took more than -1 s for http"):
        ask(server.url + "/m")


def kinds_below(kind: type[httpx.RequestError]) -> Iterator[type[httpx.RequestError]]:
    for each in kind.__subclasses__():
        yield each
        yield from kinds_below(each)


@pytest.mark.parametrize("kind", [*kinds_below(httpx.RequestError), httpx.InvalidURL])
def test_every_fault_of_the_client_is_ours(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("reason")

    monkeypatch.setattr(httpx.Client, "stream", fail)
    with pytest.raises(RemoteError, match=r"^[^\n]+$"):
        ask("http://host/m")


def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy")
    with pytest.raises(
        RemoteError, match=r"^no HTTP client can be made here: .*check the variables HTTPS_PROXY"
    ):
        ask("http://host/m")


def test_the_token_goes_to_its_own_server_alone(server: RangeServer) -> None:
    hub = HubEndpoint(server.url + "/hub", "secret")
    with running() as store:
        store.answers["/m"] = whole(b"01")
        server.answers |= {
            "/away": Answer(302, {"Location": store.url + "/m"}),
            "/near": Answer(302, {"Location": "/m"}),
            "/m": whole(b"01"),
        }
        for url in (server.url + "/away", server.url + "/near", store.url + "/m"):
            ask(url, hub)
        tokens = [(path, headers.get("authorization")) for path, headers in server.seen]
        assert tokens == [(path, "Bearer secret") for path in ("/away", "/near", "/m")]
        assert [headers.get("authorization") for _, headers in store.seen] == [None, None]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("token", "on_hub", "sentence"),
    [
        (None, True, "is gated, private or not there .* set HF_TOKEN to a token that may read it"),
        ("secret", True, "the token of HF_TOKEN, or of the log-in saved here, may not read .*/m"),
        ("secret", False, "requires a log-in for .*/m .* https://USER:PASSWORD@"),
    ],
)
def test_no_access(server: RangeServer, status: int, token: str | None, on_hub: bool, sentence: str) -> None:
    server.answers["/m"] = Answer(status)
    with pytest.raises(AccessDenied, match=sentence) as caught:
        ask(server.url + "/m", HubEndpoint(server.url if on_hub else "http://hub.test", token))
    assert str(status) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_password_in_an_address_is_used_and_not_shown(server: RangeServer) -> None:
    server.answers["/m"] = whole(b"01")
    address = server.url.replace("://", "://me:pa55@") + "/m?key=s3cret"
    ask(address)
    assert server.seen[0][1]["authorization"] == "Basic bWU6cGE1NQ=="
    server.answers.clear()
    with pytest.raises(ModelNotFound) as caught:
        ask(address)
    assert "pa55" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_page_has_a_limit_and_a_next(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/list"] = Answer(200, {"Link": '</list?page=2>; rel="next"'}, b"[1]")
    with HttpClient(OTHER) as client:
        page = client.read_page(server.url + "/list", "the list")
        assert (page.data, page.next_url) == (b"[1]", server.url + "/list?page=2")
        monkeypatch.setattr(http_client, "MAX_PAGE_BYTES", 2)
        with pytest.raises(RemoteError, match="sends more than 2 bytes for the list"):
            client.read_page(server.url + "/list", "the list")
