"""Routes with a prefix, and routes whose functions read their requests themselves."""

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from vram_llm.server.application import bare_app
from vram_llm.server.routes import RequestRoute, prefixed


@pytest.fixture
def app() -> FastAPI:
    router = APIRouter(route_class=RequestRoute)

    @router.post("/echo/{name}", summary="Answer with the body")
    async def echo(http: Request) -> Response:
        return PlainTextResponse(http.path_params["name"].encode() + b":" + await http.body())

    app = FastAPI()
    app.router.routes.extend([*prefixed(router, "/v1"), *router.routes])
    return app


@pytest.mark.parametrize("path", ["/v1/echo/a", "/echo/a"])
async def test_a_route_is_served_with_its_prefix_and_without(app: FastAPI, path: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert (await client.post(path, content=b"text")).text == "a:text"
        assert (await client.get(path)).status_code == 405
        assert (await client.post(f"/v2{path}")).status_code == 404


async def test_a_route_without_parameters_is_found_by_method_and_path_and_others_as_ever(
    app: FastAPI,
) -> None:
    found: list[str] = []
    router = APIRouter(route_class=RequestRoute)

    @router.post("/plain", summary="Tell which function answered")
    async def plain(http: Request) -> Response:
        found.append("plain")
        return PlainTextResponse(await http.body())

    own = bare_app()
    own.router.routes.extend([*router.routes, *app.router.routes])

    @own.get("/plain")
    async def read() -> str:
        return "read"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(own), base_url="http://localhost") as client:
        assert (await client.post("/plain", content=b"text")).text == "text"
        assert found == ["plain"]
        assert (await client.get("/plain")).json() == "read"
        assert (await client.post("/echo/a", content=b"text")).text == "a:text"
        assert (await client.put("/plain")).status_code == 405
        assert (await client.post("/plain/more")).status_code == 404


def test_both_are_documented_under_ids_of_their_own(app: FastAPI) -> None:
    paths = app.openapi()["paths"]

    assert paths["/v1/echo/{name}"]["post"]["summary"] == "Answer with the body"
    assert paths["/v1/echo/{name}"]["post"]["operationId"] == "echo_v1_echo__name__post"
    assert paths["/echo/{name}"]["post"]["operationId"] == "echo_echo__name__post"
