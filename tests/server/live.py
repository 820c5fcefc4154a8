"""One way each to reach the application: in process, on a port, as a process of its own; and by an SDK."""

import asyncio
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import openai
import psutil
import uvicorn
from fastapi import FastAPI

from tests.cli.running import command, environment
from tests.engine.harness import running
from tests.patience import PATIENCE_S, looks, until
from tests.workers import free_ports
from vram_llm.engine.engine_protocol import Engine
from vram_llm.planner.types import Plan
from vram_llm.server.app import create_app
from vram_llm.server.config import ServerConfig
from vram_llm.server.run import http_protocol

if TYPE_CHECKING:  # it takes two seconds to load, in each process of pytest-xdist
    import anthropic

T = TypeVar("T")

# -- in this process -----------------------------------------------------------------------------


def app_of(engine: Engine, **options: Any) -> FastAPI:
    """The application; `options` are create_app's, and the others ServerConfig's."""
    own = {name: options.pop(name) for name in ("hosts", "clock", "lifespan", "ui") if name in options}
    return create_app(engine, ServerConfig(**options), **own)


def in_process(app: FastAPI) -> httpx.AsyncClient:
    """A client that calls the application without a socket."""
    return http_client("http://test", transport=httpx.ASGITransport(app))


def http_client(url: str = "", **options: Any) -> httpx.AsyncClient:
    """A client that waits long for answers; `options` are httpx.AsyncClient's."""
    return httpx.AsyncClient(**{"base_url": url, "timeout": PATIENCE_S, **options})


@asynccontextmanager
async def listening(engine: Engine, **options: Any) -> AsyncIterator[str]:
    """The base URL, without a path, of a real server on a free port; `options` are those of `app_of`."""
    async with listening_app(app_of(engine, **options)) as url:
        yield url


@asynccontextmanager
async def listening_app(app: FastAPI) -> AsyncIterator[str]:
    """The base URL, without a path, of a real server of an application on a free port."""
    config = uvicorn.Config(
        app, port=0, http=http_protocol(), log_level="warning", lifespan="off", timeout_graceful_shutdown=1
    )  # so that a stream that is never freed fails its test, and does not hang it
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started, "a server")
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def listening_with(plan: Plan, name: str, **options: Any) -> AsyncIterator[str]:
    """The base URL of a real server before a real engine, which has loaded the plan's model."""
    async with running(plan, name) as engine, listening(engine, **options) as url:
        yield url


@contextmanager
def in_thread(block: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Holds the block open in a thread with a loop of its own, so that clients that wait can be used."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    entered: Future[T] = Future()

    async def hold() -> None:
        try:
            async with block as value:
                entered.set_result(value)
                await stop.wait()
        except BaseException as error:  # the waiting test raises it
            if entered.done():
                raise
            entered.set_exception(error)

    thread = threading.Thread(target=loop.run_until_complete, args=(hold(),))
    thread.start()
    try:
        yield entered.result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


# -- in a process of its own ---------------------------------------------------------------------


def await_health(url: str, process: "subprocess.Popen[Any]") -> list[int]:
    """Wait until the server answers /health with 200; every status seen on the way, 0 for no answer.

    Raises AssertionError if the process ends first, or if it takes too long.
    """
    seen = []
    with httpx.Client(timeout=5) as client:  # to make one takes more time than a look
        for _ in looks():
            if process.poll() is not None:
                raise AssertionError(f"the server ended with {process.returncode} before it was healthy")
            try:
                seen.append(client.get(f"{url}/health").status_code)
            except httpx.TransportError:
                seen.append(0)
            if seen[-1] == 200:
                return seen
    raise AssertionError(f"not healthy after {PATIENCE_S:.0f} s: {seen[-1]}")


class Serving:
    """A running `vram-llm serve`, and OpenAI's client of it."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = openai_sdk(self.url, timeout=PATIENCE_S)
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self._said.extend(self.process.stderr)

    def await_health(self) -> list[int]:
        """Wait for 200; every status seen on the way. Raises AssertionError with what the server said."""
        try:
            return await_health(self.url, self.process)
        except AssertionError as error:
            error.add_note(self.said() if self.process.poll() is not None else "it still runs")
            raise

    def chat(self, text: str, **more: Any) -> str:
        """One streamed answer of at most twelve tokens; `more` are fields of the request."""
        stream = self.client.chat.completions.create(
            model="", messages=[{"role": "user", "content": text}], stream=True, max_tokens=12, **more
        )
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def said(self) -> str:
        """Its standard error, once it has ended."""
        self._reader.join(PATIENCE_S)
        return "".join(self._said)

    def children(self) -> list[psutil.Process]:
        """Its processes: the engine's, and those that render chat templates."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def engine(self) -> psutil.Process:
        """The engine's process."""
        (engine,) = (child for child in self.children() if "vram_llm.engine.worker" in child.cmdline())
        return engine


@contextmanager
def serving(*args: str | Path, port: int | None = None, command_name: str = "serve") -> Iterator[Serving]:
    """`vram-llm serve ARGS`, or another command, on `port`, or on a free one; gone with the block."""
    port = port or free_ports(1)[0]
    with subprocess.Popen(
        command(command_name, *args, "--port", str(port)),
        env=environment(columns=120), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        served = Serving(process, port)
        try:
            yield served
        finally:
            served.client.close()
            if process.poll() is None:
                served.end(signal.SIGKILL)


# -- clients -------------------------------------------------------------------------------------


def openai_sdk(url: str, **options: Any) -> openai.OpenAI:
    """OpenAI's client of the server at `url`, a base URL without a path; it asks once."""
    return openai.OpenAI(**_for_openai(url, options))


def async_openai_sdk(url: str, **options: Any) -> openai.AsyncOpenAI:
    """The asynchronous one. With `_strict_response_validation` an answer must have the SDK's types."""
    return openai.AsyncOpenAI(**_for_openai(url, options))


def anthropic_sdk(url: str, **options: Any) -> "anthropic.Anthropic":
    """Anthropic's client of the server at `url`, a base URL without a path; it asks once."""
    import anthropic

    return anthropic.Anthropic(**_ONCE | {"base_url": url} | options)


def async_anthropic_sdk(url: str, **options: Any) -> "anthropic.AsyncAnthropic":
    """The asynchronous one. With `_strict_response_validation` an answer must have the SDK's types."""
    import anthropic

    return anthropic.AsyncAnthropic(**_ONCE | {"base_url": url} | options)


_ONCE: dict[str, Any] = {"api_key": "none", "max_retries": 0}


def _for_openai(url: str, options: dict[str, Any]) -> dict[str, Any]:
    return _ONCE | {"base_url": f"{url}/v1"} | options
