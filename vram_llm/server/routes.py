"""Routes that add little to the time of a request."""

from collections.abc import Awaitable, Callable, Iterable
from copy import copy
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.utils import generate_unique_id
from starlette.routing import BaseRoute, compile_path
from starlette.types import ASGIApp, Receive, Scope, Send


class RequestRoute(APIRoute):
    """A route whose function has one parameter, the Request, and returns a Response.

    FastAPI documents it, and it is called as it is. FastAPI would solve dependencies and parameters each
    time, and Starlette would look for errors twice.
    """

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], **options: Any) -> None:
        super().__init__(path, endpoint, **options)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = app


class PlainRoutes:
    """ASGI application: a request with the method and the path of a RequestRoute goes to it at once.

    Other requests, and those of paths with parameters, go to `others`, which compare them with one route
    after the other.
    """

    def __init__(self, routes: Iterable[BaseRoute], others: ASGIApp) -> None:
        self._others = others
        self._apps: dict[tuple[str, str], ASGIApp] = {}
        for route in routes:
            if isinstance(route, RequestRoute) and not route.param_convertors:
                for method in route.methods or ():
                    self._apps.setdefault((method, route.path), route.app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._apps.get((scope.get("method", ""), scope.get("path", "")), self._others)
        await app(scope, receive, send)


def prefixed(router: APIRouter, prefix: str) -> list[APIRoute]:
    """Copies of a router's routes with `prefix` in front of their paths.

    FastAPI's include_router makes each route again at the start, and compares each request with it twice.
    """
    return [_prefixed(route, prefix) for route in router.routes if isinstance(route, APIRoute)]


def _prefixed(route: APIRoute, prefix: str) -> APIRoute:
    new = copy(route)
    new.path = prefix + route.path
    new.path_regex, new.path_format, new.param_convertors = compile_path(new.path)
    new.unique_id = new.operation_id or generate_unique_id(new)
    return new
