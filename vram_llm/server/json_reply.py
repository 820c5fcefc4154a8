"""A whole answer that is not a stream, with bytes that keep the connection alive."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vram_llm.errors import VramLLMError
from vram_llm.server.errors import error_response
from vram_llm.server.generation import cancel_and_wait, while_connected
from vram_llm.server.request_record import note_error, record_of_request
from vram_llm.server.sse import send_body

log = logging.getLogger(__name__)
_TYPE = "application/json"
_SPACE = b"\n"  # white space before a JSON value has no meaning (RFC 8259)


class JsonReply(Response):
    """Sends the JSON text that `work` returns. A client that disconnects cancels `work`.

    After `ping_interval_s` (0: never) the headers are sent, then a line end per interval: proxies close
    silent connections. An error before the headers is raised, so that it gets its own status. After them the
    error object is sent and the connection is aborted, so that clients do not take it for the answer.
    """

    def __init__(
        self,
        work: Coroutine[Any, Any, bytes],
        ping_interval_s: float,
        refuse: Callable[[Exception], Response] = error_response,
        *,
        content_type: str = _TYPE,
    ) -> None:
        self.background = None
        self._content_type = content_type
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
                await Response(working.result(), media_type=self._content_type)(scope, receive, send)
                return
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-type", self._content_type.encode())],
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
            note_error(error)
            if not isinstance(error, VramLLMError):
                log.error("A reply failed (%s)", record_of_request().id, exc_info=error)
            await send_body(send, bytes(self._refuse(error).body))  # no end: the connection breaks
        finally:
            await cancel_and_wait(working)
