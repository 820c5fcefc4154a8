"""FastAPI's application, with nothing around its routes that this server's own middleware does."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.responses import Response
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from vram_llm._version import __version__
from vram_llm.errors import RequestError
from vram_llm.server.errors import UnknownRoute, WrongMethod, error_response
from vram_llm.server.routes import PlainRoutes


class Application(FastAPI):
    """FastAPI without its handler of all errors, its traces and its limit of bodies.

    AuthAndLimitsMiddleware answers every error and limits bodies, and traces.py makes the traces: each of
    FastAPI's would be passed by each request and each piece of an answer, to do nothing.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as Starlette does."""
        await Starlette.__call__(self, scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """The added middleware, and within it the routes."""
        others = ExceptionMiddleware(AsyncExitStackMiddleware(self.router), self.exception_handlers)
        app: ASGIApp = PlainRoutes(self.router.routes, others)
        for cls, args, kwargs in reversed(self.user_middleware):
            app = cls(app, *args, **kwargs)
        return app


def bare_app(lifespan: Callable[[FastAPI], Any] | None = None) -> FastAPI:
    """An application without routes, whose errors of routing are OpenAI's."""
    # The pages at /docs would fetch their scripts from the network.
    app = Application(
        title="vram-llm", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False,
        lifespan=lifespan,
    )  # fmt: skip
    app.add_exception_handler(HTTPException, _no_such_route)
    return app


async def _no_such_route(http: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{http.method} {http.url.path}"
    if error.status_code == 404:
        return error_response(
            UnknownRoute(f"There is nothing at {where}; chats go to POST /v1/chat/completions")
        )
    if error.status_code == 405:
        return error_response(WrongMethod(f"This address does not accept {where}"), dict(error.headers or {}))
    return error_response(RequestError(str(error.detail)))
