"""An id for every request, in its answer and in the log, and a line of the log at its end."""

import logging
from time import monotonic
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vram_llm.server.api_keys import client_address
from vram_llm.server.middleware import OPEN_PATHS
from vram_llm.server.request_record import RequestRecord, current_request, request_id

log = logging.getLogger(__name__)  # of refusals, which clients can cause without end
requests = logging.getLogger("vram_llm.requests")  # of requests that the engine answered


class RequestLogMiddleware:
    """ASGI middleware around all others. `current_request` is the record of the request."""

    def __init__(self, app: ASGIApp, *, shows_prompts: bool) -> None:
        self._app = app
        self._shows_prompts = shows_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(
            id=request_id(Headers(scope=scope).get("x-request-id", "")),
            method=scope["method"],
            path=scope["path"],
            client=client_address(scope),
        )
        current_request.set(record)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                own = [(b"x-request-id", record.id.encode())]
                if record.dropped_messages is not None:
                    own.append((b"x-dropped-messages", b"%d" % record.dropped_messages))
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            record.ended_at = monotonic()
            _write_line(record, self._shows_prompts)


def log_refusal(status: int, fields: dict[str, Any]) -> None:
    """A line for bytes that never became a request."""
    log.info(f"refused with {status}", extra={"fields": fields, "named": {"status": status}})


def _write_line(record: RequestRecord, shows_prompts: bool) -> None:
    """Requests of the engine and refusals are shown; others, such as those of probes, only with --verbose."""
    is_refused = record.status >= 400 and record.path not in OPEN_PATHS  # 503 for probes: it loads
    logger = requests if record.n_sequences and not is_refused else log
    level = logging.INFO if record.n_sequences or is_refused else logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    fields = record.fields()
    if shows_prompts and record.prompts:
        fields["prompts"] = record.prompt_texts()
    if record.n_sequences and not (record.finish_reasons or record.error or is_refused):
        fields["finish_reason"] = "disconnected"
    named = {"method": record.method, "path": record.path, "status": record.status}
    wording = f"%s %s {record.status}"  # few lines of one wording are shown: of refusals, few of each status
    logger.log(level, wording, record.method, record.path, extra={"fields": fields, "named": named})
