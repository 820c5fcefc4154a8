"""A real HTTP server on the loopback that serves files by ranges, and can be told to misbehave."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Answer:
    """What to send, whatever was asked for."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class RangeServer(ThreadingHTTPServer):
    """Serves `files` and `answers` by path; `before` is called with each path first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[str, Path] = {}
        self.answers: dict[str, Answer] = {}
        self.tags: dict[str, str] = {}
        self.last_modified: str | None = None
        self.sends_tags = True
        self.has_ranges = True
        self.compares = True
        self.token: str | None = None
        self.breaks_at: int | None = None  # byte of a file at which the connection is cut
        self.before: Callable[[str], object] = lambda _: None
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.sent_bytes = 0
        self.lock = threading.Lock()

    def serve_folder(self, folder: Path, under: str = "/") -> str:
        """Serve all of a folder's files; its URL."""
        for path in folder.iterdir():
            self.files[under + path.name] = path
        return self.url + under

    def ranges(self) -> list[str]:
        """The Range header of each request so far."""
        return [headers["range"] for _, headers in self.seen if "range" in headers]


@contextmanager
def running() -> Iterator[RangeServer]:
    """A server for as long as the context lasts."""
    with RangeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.server.before(path)
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.answer(Answer(401))
        elif (answer := self.server.answers.get(self.path) or self.server.answers.get(path)) is not None:
            self.answer(answer)
        elif path in self.server.files:
            self.serve(path, self.server.files[path])
        else:
            self.answer(Answer(404))

    def answer(self, answer: Answer) -> None:
        self.start(answer.status, {"Content-Length": str(len(answer.body)), **answer.headers})
        self.wfile.write(answer.body)

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def serve(self, path: str, file: Path) -> None:
        size, headers = file.stat().st_size, {}
        if self.server.sends_tags:
            headers["ETag"] = self.server.tags.get(path, f'"{size:x}"')
        if self.server.last_modified:
            headers["Last-Modified"] = self.server.last_modified
        asked = self.headers.get("Range", "")
        if self.server.compares and self.headers.get("If-None-Match") == headers.get("ETag", ""):
            self.start(304, headers)
            return
        if not (self.server.has_ranges and asked):
            self.start(200, {**headers, "Content-Length": str(size)})
            self.send(file, 0, size)
            return
        first, last = (int(each) for each in asked.removeprefix("bytes=").split("-"))
        if first >= size:
            self.start(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        last = min(last, size - 1)
        length = str(last - first + 1)
        self.start(
            206, {**headers, "Content-Range": f"bytes {first}-{last}/{size}", "Content-Length": length}
        )
        self.send(file, first, last + 1)

    def send(self, file: Path, start: int, end: int) -> None:
        with file.open("rb") as stream, suppress(ConnectionError):
            stream.seek(start)
            while start < end:
                if self.server.breaks_at is not None and start >= self.server.breaks_at:
                    self.close_connection = True
                    return
                piece = stream.read(min(65536, end - start))
                self.wfile.write(piece)
                start += len(piece)
                with self.server.lock:
                    self.server.sent_bytes += len(piece)
