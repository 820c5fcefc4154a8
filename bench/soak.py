"""Mixed load with disconnects, overload and kills of the engine: what memory, descriptors and answers do.

    python -m bench.soak [--minutes 30] [--kill-every 60] [--model FILE]
    python -m bench.soak --stateful [--examples 1000]

Clients stream and leave, wait for whole answers, ask for many choices and for grammars, send what is no HTTP,
read nothing, and sometimes send 400 requests at once. Before each kill of the engine they pause; once nothing
is in flight, the memory and the file descriptors of both processes are read. Then they go on, and the engine
is killed under load. The server's budget of crashes is lifted: a kill each minute would end it.

With --stateful hypothesis draws what clients do, event by event (tests/server/stateful_clients.py).
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.servers import free_port, running
from tools.random_model import write_llama
from vram_llm.server.responses.store import MAX_RESPONSES
from vram_llm.units import GIB, MIB

_SERVE = (
    "import sys; from vram_llm.engine import restart_policy; restart_policy.MAX_CRASHES = 10**9; "
    "from vram_llm.cli.main import main; sys.argv[0] = 'vram-llm'; main()"
)
_CLIENTS = 6  # tasks of each kind
_BURST = 400
_PATIENCE_S = 300.0
_SCHEMAS = tuple({"type": "object", "properties": {f"p{i}": {"type": "integer"}}} for i in range(8))


@dataclass(frozen=True, slots=True)
class Reading:
    """Both processes while nothing is in flight. Sizes are resident bytes."""

    server_bytes: int
    engine_bytes: int
    server_fds: int
    engine_fds: int


@dataclass(slots=True)
class SoakReport:
    """What happened. `statuses` counts answers by status; 0: the connection broke."""

    statuses: Counter[int] = field(default_factory=Counter)
    readings: list[Reading] = field(default_factory=list)
    n_kills: int = 0
    broken_streams: Counter[str] = field(default_factory=Counter)  # by the code of their error events

    @property
    def server_errors(self) -> dict[int, int]:
        """Answers with a status of 500 or more."""
        return {status: n for status, n in self.statuses.items() if status >= 500}

    def growth(self, figure: Callable[[Reading], int], n_warm: int) -> float:
        """The last reading over the largest of the first `n_warm`."""
        return figure(self.readings[-1]) / max(figure(reading) for reading in self.readings[:n_warm])


class _Load:
    """Clients of the server at `port`, which wait for `pause_s` before each request."""

    def __init__(self, port: int, report: SoakReport, pause_s: float, seed: int = 1) -> None:
        self._pause_s = pause_s
        self._port = port
        self._report = report
        self._random = random.Random(seed)
        self._starts = [[1, *self._tokens(60)] for _ in range(40)]  # of conversations

    def _tokens(self, n: int) -> list[int]:
        return [self._random.randrange(10, 300) for _ in range(n)]

    def _body(self, **fields: Any) -> dict[str, Any]:
        prompt = [*self._random.choice(self._starts), *self._tokens(self._random.randrange(1, 60))]
        n = self._random.choice([1, 8, 40, 120])
        return {"prompt": prompt, "max_tokens": n, "ignore_eos": True, **fields}

    async def _post(
        self, client: httpx.AsyncClient, body: dict[str, Any], path: str = "/v1/completions"
    ) -> None:
        try:
            reply = await client.post(path, json=body)
            self._report.statuses[reply.status_code] += 1
        except httpx.TransportError:
            self._report.statuses[0] += 1

    async def stream_and_leave(self, client: httpx.AsyncClient) -> None:
        seeded = {"seed": 7} if self._random.random() < 0.5 else {}
        body, most = self._body(stream=True, **seeded), self._random.randrange(1, 60)
        try:
            async with client.stream("POST", "/v1/completions", json=body) as reply:
                self._report.statuses[reply.status_code] += 1
                async for line in reply.aiter_lines():
                    if '"error"' in line and line.startswith("data: "):
                        self._report.broken_streams[str(json.loads(line[6:])["error"]["code"])] += 1
                    most -= 1
                    if not most:
                        break
        except httpx.TransportError:
            self._report.statuses[0] += 1

    async def whole(self, client: httpx.AsyncClient) -> None:
        await self._post(client, self._body(max_time=self._random.choice([None, None, 0.05])))

    async def choices(self, client: httpx.AsyncClient) -> None:
        await self._post(client, self._body(n=self._random.randrange(2, 9)))

    async def structured(self, client: httpx.AsyncClient) -> None:
        schema = self._random.choice(_SCHEMAS)
        await self._post(client, self._body(json_schema=schema, max_tokens=30, ignore_eos=False))

    async def stored(self, client: httpx.AsyncClient) -> None:
        body = {"input": "x" * self._random.randrange(1, 400), "max_output_tokens": 8}
        await self._post(client, body, "/v1/responses")

    async def bad(self, client: httpx.AsyncClient) -> None:
        await self._post(client, self._body(temperature=-1))
        await self._post(client, {"input": "x"}, "/v1/embeddings")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"\x16\x03\x01 no http\r\n\r\n")
            await asyncio.sleep(0.1)  # the server reads what is no HTTP
            writer.close()

    async def deaf(self, client: httpx.AsyncClient) -> None:
        """Asks for a stream and reads nothing of it."""
        body = json.dumps(self._body(stream=True)).encode()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as sock:
            sock.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            )
            sock.sendall(body)
            await asyncio.sleep(self._random.uniform(0.1, 1.0))

    async def burst(self, client: httpx.AsyncClient) -> None:
        await asyncio.sleep(self._random.uniform(2, 6))
        await asyncio.gather(*(self._post(client, self._body(max_tokens=4)) for _ in range(_BURST)))

    async def run(self, stop: asyncio.Event) -> None:
        """All kinds of clients, until `stop` is set and each has ended what it began."""
        kinds = [
            *_CLIENTS * (self.stream_and_leave, self.whole), self.choices, self.structured, self.stored,
            self.bad, self.deaf, self.burst,
        ]  # fmt: skip
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        base = f"http://127.0.0.1:{self._port}"
        async with httpx.AsyncClient(base_url=base, timeout=_PATIENCE_S, limits=limits) as client:
            await asyncio.gather(*(self._repeat(kind, client, stop) for kind in kinds))

    async def _repeat(
        self,
        kind: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]],
        client: httpx.AsyncClient,
        stop: asyncio.Event,
    ) -> None:
        while not stop.is_set():
            await asyncio.sleep(self._pause_s)  # the pace of this client
            await kind(client)


def _processes() -> tuple[psutil.Process, psutil.Process]:
    """The server and its engine."""
    found = psutil.Process().children(recursive=True)
    engine = next(process for process in found if "vram_llm.engine.worker" in _command(process))
    server = engine.parent()
    assert server is not None
    return server, engine


def _command(process: psutil.Process) -> Sequence[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return ()


async def _read(n_fds: int | None) -> Reading:
    """Read both processes; waits until the server has as few descriptors as before, for some seconds."""
    server, engine = _processes()
    for _ in range(100):
        if n_fds is not None and server.num_fds() <= n_fds:
            break
        await asyncio.sleep(0.05)  # between two looks
    return Reading(server.memory_info().rss, engine.memory_info().rss, server.num_fds(), engine.num_fds())


async def _ready(port: int) -> None:
    """Return once /health answers 200. Raises SystemExit."""
    async with httpx.AsyncClient() as client:
        for _ in range(int(_PATIENCE_S / 0.05)):
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200:
                    return
            await asyncio.sleep(0.05)  # between two looks
    raise SystemExit("the server is not ready again")


async def fill_store(port: int) -> None:
    """Store as many responses as the server keeps, so that later ones take no more memory."""
    body = {"input": "x" * 200, "max_output_tokens": 8}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE_S) as client:
        for _ in range(MAX_RESPONSES):
            (await client.post("/v1/responses", json=body)).raise_for_status()


async def soak(
    port: int, seconds: float, kill_every_s: float, pause_s: float = 0.0, least_kills: int = 0
) -> SoakReport:
    """Load the server at `port`, a descendant of this process, and kill its engine again and again.

    It ends after `seconds` and `least_kills`. Each client waits for `pause_s` before each request.
    """
    report = SoakReport()
    load = _Load(port, report, pause_s)
    end = time.monotonic() + seconds
    while True:
        stop = asyncio.Event()
        loading = asyncio.create_task(load.run(stop))
        if report.readings:
            await asyncio.sleep(min(2.0, kill_every_s / 4))
            _, engine = _processes()
            os.kill(engine.pid, signal.SIGKILL)
            report.n_kills += 1
        await asyncio.sleep(kill_every_s)  # the load goes on to the end
        stop.set()
        await loading
        await _ready(port)
        report.readings.append(await _read(report.readings[0].server_fds if report.readings else None))
        reading = report.readings[-1]
        print(
            f"{report.n_kills:>3} kills: server {reading.server_bytes / MIB:.1f} MiB, {reading.server_fds} "
            f"descriptors; engine {reading.engine_bytes / MIB:.1f} MiB, {reading.engine_fds}",
            flush=True,
        )
        if time.monotonic() > end and report.n_kills >= least_kills:
            return report


def command(model: Path, port: int) -> list[str]:
    """The server's command line, with a bound of its caches that is soon reached."""
    return [
        sys.executable, "-c", _SERVE, "serve", str(model), "--port", str(port), "--n-ctx", "4096",
        "--parallel", "4", "--threads", "1", "--reserve-mib", "0", "--slots-ram", "8MiB",
    ]  # fmt: skip


def _stateful(examples: int) -> None:
    from hypothesis import settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.server.live import in_thread
    from tests.server.stateful_clients import PARALLEL, Clients, target
    from vram_llm.machine.types import Host, Machine
    from vram_llm.planner.make_plan import make_plan
    from vram_llm.planner.types import Workload
    from vram_llm.workflows import detection

    with tempfile.TemporaryDirectory() as name:
        model = write_llama(Path(name) / "tiny.gguf")
        wish = Workload(reserve_bytes=0, n_ctx=4096, parallel=PARALLEL)
        host = Host(name="soak", cores=1, total_bytes=16 * GIB, available_bytes=16 * GIB)
        plan = make_plan(detection.analyze(str(model)), Machine(devices=(), host=host), wish)
        with in_thread(target(plan)) as server:
            Clients.server = server
            run_state_machine_as_test(
                Clients, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
            )
    print(f"{examples} runs: nothing is left, no 5xx")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--stateful", action="store_true")
    parser.add_argument("--examples", type=int, default=1000)
    args = parser.parse_args()
    if args.stateful:
        _stateful(args.examples)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or write_llama(folder / "tiny.gguf")
        port = free_port()
        with running(command(model, port), port, folder / "log"):
            asyncio.run(fill_store(port))
            report = asyncio.run(soak(port, 60 * args.minutes, args.kill_every))
    n_warm = max(len(report.readings) // 4, 2)
    print("answers:", ", ".join(f"{n:,} x {status}" for status, n in sorted(report.statuses.items())))
    print("streams that ended with an error:", dict(report.broken_streams) or "none")
    for what, figure in (
        ("server", lambda reading: reading.server_bytes), ("engine", lambda reading: reading.engine_bytes),
        ("server's descriptors", lambda reading: reading.server_fds),
        ("engine's descriptors", lambda reading: reading.engine_fds),
    ):  # fmt: skip
        print(f"{what}: last / largest of the first {n_warm} readings {report.growth(figure, n_warm):.3f}")


if __name__ == "__main__":
    main()
