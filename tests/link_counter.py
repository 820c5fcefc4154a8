"""A link that counts: whoever connects to it is connected to a worker, and bytes are counted on the way."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.workers import free_ports


class LinkCounter:
    """Relays connections to a worker. `sent` are the bytes that went to it."""

    def __init__(self, worker: str) -> None:
        (port,) = free_ports(1)
        self.endpoint, self.sent = f"127.0.0.1:{port}", 0
        host, _, worker_port = worker.rpartition(":")
        self._worker = (host, int(worker_port))
        self._listener = socket.create_server(("127.0.0.1", port))
        self._socks = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut all connections."""
        for sock in self._socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                worker = socket.create_connection(self._worker)
                self._socks += [client, worker]
                for source, target, counts in ((client, worker, True), (worker, client, False)):
                    threading.Thread(target=self._relay, args=(source, target, counts), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                self.sent += len(data) if counts else 0
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


@contextmanager
def counted_link(worker: str) -> Iterator[LinkCounter]:
    """A counted link to the worker at "host:port"."""
    link = LinkCounter(worker)
    try:
        yield link
    finally:
        link.close()
