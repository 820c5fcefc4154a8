"""The HTTP application. Each family of routes is a file of its own and is added here."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from vram_llm import __version__
from vram_llm.errors import RequestError
from vram_llm.server.chat import chat_router
from vram_llm.server.completions import completions_router
from vram_llm.server.document import document
from vram_llm.server.engine_port import Engine
from vram_llm.server.errors import UnknownRoute, WrongMethod, error_response
from vram_llm.server.guard import Guard
from vram_llm.server.health import health_router
from vram_llm.server.models import models_router
from vram_llm.server.served import Served
from vram_llm.units import MIB

MAX_BODY_BYTES = 32 * MIB


def create_app(
    engine: Engine,
    *,
    model_aliases: tuple[str, ...] = (),
    api_keys: tuple[str, ...] = (),
    clock: Callable[[], float] = time.time,
    max_body_bytes: int = MAX_BODY_BYTES,
    lifespan: Callable[[FastAPI], Any] | None = None,
) -> FastAPI:
    """The OpenAI endpoint in front of `engine`, which the caller starts and stops.

    Every path under `/v1` is there without it as well. With `api_keys`, all but /health wants one of them
    as a bearer token.
    """
    # The pages at /docs would fetch their scripts from the network.
    app = FastAPI(
        title="vram-llm", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False,
        lifespan=lifespan,
    )  # fmt: skip
    app.add_middleware(Guard, api_keys=api_keys, max_body_bytes=max_body_bytes)
    app.add_exception_handler(HTTPException, _no_such_route)
    served = Served(engine, model_aliases, clock)
    app.include_router(health_router(served))
    for router in (models_router(served), chat_router(served), completions_router(served)):
        app.include_router(router, prefix="/v1")
        app.include_router(router, include_in_schema=False)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    return app


async def _no_such_route(http: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{http.method} {http.url.path}"
    if error.status_code == 404:
        return error_response(
            UnknownRoute(f"There is nothing at {where}; chats go to POST /v1/chat/completions")
        )
    if error.status_code == 405:
        return error_response(
            WrongMethod(f"{where} is not how this address is used"), dict(error.headers or {})
        )
    return error_response(RequestError(str(error.detail)))
