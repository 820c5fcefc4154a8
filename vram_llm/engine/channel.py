"""The engine's end of the socket pair between its process and the server's."""

import select
import socket
import threading
from collections.abc import Callable

from vram_llm.engine import wire

_RECV_BYTES = 1 << 16
_BEAT_EVERY_MS = 500  # while it waits


class ChannelClosed(Exception):
    """The server sent Stop, or closed its end."""


class Channel:
    """Sends and receives whole messages. Several threads may send.

    `beat` is called at each look for messages, and while it waits.
    """

    def __init__(self, sock: socket.socket, beat: Callable[[], None] = lambda: None) -> None:
        self._socket = sock
        self._beat = beat
        self.while_idle: Callable[[], None] = lambda: None  # called while it waits
        self._sending = threading.Lock()
        self._buffer = bytearray()
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        self.poll: Callable[[int], list[tuple[int, int]]] = poll.poll
        """Waits for data or the connection's end, at most the given milliseconds; [] if neither came.

        This is the method of select.poll itself, since each step calls it. It takes a quarter of the time of
        a recv that finds nothing.
        """

    def send(self, *messages: wire.FromEngine) -> None:
        """Send, waiting for room if the server is behind. Raises ChannelClosed."""
        data = wire.pack(messages[0]) if len(messages) == 1 else b"".join(map(wire.pack, messages))
        try:
            with self._sending:
                self._socket.sendall(data)
        except OSError as error:
            raise ChannelClosed from error

    def receive(self, *, wait: bool) -> list[wire.ToEngine]:
        """All messages that have come in; with `wait`, at least one. Raises ChannelClosed."""
        messages: list[wire.ToEngine] = []
        self._beat()
        while True:
            data = self._received(wait=wait and not messages)
            if data is None:
                return messages
            if not data:
                raise ChannelClosed
            self._buffer += data
            messages += self._whole_messages()
            if any(isinstance(message, wire.Stop) for message in messages):
                raise ChannelClosed

    def _received(self, *, wait: bool) -> bytes | None:
        """New data; b"" if the server has closed its end; None if there is none and `wait` is False."""
        if not wait and not self.poll(0):
            return None
        while wait and not self.poll(_BEAT_EVERY_MS):
            self._beat()
            self.while_idle()
        try:
            return self._socket.recv(_RECV_BYTES)
        except OSError:  # the server died with messages of ours unread
            return b""

    def _whole_messages(self) -> list[wire.ToEngine]:
        messages = []
        while len(self._buffer) >= wire.HEADER_BYTES:
            end = wire.HEADER_BYTES + wire.body_length(bytes(self._buffer[: wire.HEADER_BYTES]))
            if len(self._buffer) < end:
                break
            messages.append(wire.decode_to_engine(self._buffer[wire.HEADER_BYTES : end]))
            del self._buffer[:end]
        return messages
