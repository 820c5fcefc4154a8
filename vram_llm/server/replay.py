"""Requests of whose answer nothing was sent are handled once more after the engine's end.

Most requests go to the next engine by themselves (engine/in_flight.py). Two kinds come here: the model's file
was replaced by another model while they waited, or the engine had begun a stream whose first bytes were held
back, such as half of a character.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vram_llm.errors import AnswerCutOff, ModelChanged

REPLAYED = (AnswerCutOff, ModelChanged)
_MOST_BYTES = 1 << 20  # of a body that is kept to be read again


class ReplayMiddleware:
    """ASGI middleware. A request that ends with one of REPLAYED before its answer began is handled once more.

    After ModelChanged it has the template and the tokens of the new model. Bodies over 1 MiB are not kept:
    their requests end with the error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body, has_begun = _KeptBody(receive), False

        async def noting_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(dict(scope), body.receive, noting_send)
        except REPLAYED:
            if has_begun or not body.is_kept:
                raise
            await self._app(dict(scope), body.receive_again, send)


class _KeptBody:
    """A body as it comes from `receive`, kept up to `_MOST_BYTES`."""

    def __init__(self, receive: Receive) -> None:
        self.is_kept = True
        self._receive = receive
        self._messages: list[Message] = []
        self._n_bytes = 0

    async def receive(self) -> Message:
        """The next message, which is kept if it is of the body."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._n_bytes += len(message.get("body", b""))
            self.is_kept = self._n_bytes <= _MOST_BYTES
            self._messages = [*self._messages, message] if self.is_kept else []
        return message

    async def receive_again(self) -> Message:
        """The kept messages, then those that follow."""
        return self._messages.pop(0) if self._messages else await self._receive()
