"""A whole answer that is not a stream, on a connection that never looks dead."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vram_llm.errors import VramLLMError
from vram_llm.server.errors import error_response
from vram_llm.server.generation import cancelled, while_connected
from vram_llm.server.sse import send_body

log = logging.getLogger(__name__)
_TYPE = "application/json"
_SPACE = b"\n"  # before a JSON value white space means nothing (RFC 8259)


class JsonReply(Response):
    """Sends the JSON text that `work` returns once it is there. A client that goes away cancels `work`.

    After `ping_interval_s` (0: never) the headers go, and a line end each time it passes again: proxies end
    connections that are silent. An error before the headers is raised, so that it gets its own status; after
    them the error object is sent, and the connection is broken off, so that nobody takes it for the answer.
    """

    def __init__(
        self,
        work: Coroutine[Any, Any, bytes],
        ping_interval_s: float,
        refuse: Callable[[Exception], Response] = error_response,
    ) -> None:
        self.background = None
        self._work = work
        self._ping_interval_s = ping_interval_s or None
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._run(scope, receive, send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        working = asyncio.ensure_future(self._work)
        try:
            await asyncio.wait({working}, timeout=self._ping_interval_s)
            if working.done():
                await Response(working.result(), media_type=_TYPE)(scope, receive, send)
                return
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-type", _TYPE.encode())],
                }
            )
            while not working.done():
                await send_body(send, _SPACE)
                await asyncio.wait({working}, timeout=self._ping_interval_s)
            error = working.exception()
            if error is None:
                await send_body(send, working.result(), more=False)
                return
            assert isinstance(error, Exception)
            if not isinstance(error, VramLLMError):
                log.error("A reply failed", exc_info=error)
            await send_body(send, bytes(self._refuse(error).body))  # and no end: the server breaks off
        finally:
            await cancelled(working)
