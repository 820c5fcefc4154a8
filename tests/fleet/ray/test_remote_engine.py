"""A server's engines behind relays: real engine processes, connected by TCP, without Ray."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, make_request, text_of, write_f32
from tests.patience import soon, until
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import SamplingParams, TokenEvent
from vram_llm.errors import EngineDied
from vram_llm.fleet.ray.links import Hello, ReplicaLink, Switchboard, pack_hello
from vram_llm.fleet.ray.relay import EngineRelay
from vram_llm.fleet.ray.remote_engine import RemoteEngine
from vram_llm.planner.types import Plan

pytestmark = pytest.mark.process

LONG = 2000


class Remote:
    """A server's engine, and relays that dial its switchboard."""

    def __init__(self, plan: Plan, switchboard: Switchboard, address: tuple[str, int]) -> None:
        self.links: asyncio.Queue[ReplicaLink] = asyncio.Queue()
        switchboard.expect("tiny", self.links.put_nowait)
        self.plan, self.address, self.token = plan, address, switchboard.token
        self.engine = RemoteEngine(plan, "tiny", self)
        self.relays: list[EngineRelay] = []

    def begin(self, engine: RemoteEngine) -> None: ...

    async def end(self, engine: RemoteEngine) -> None: ...

    async def add_relay(self, node: str) -> EngineRelay:
        relay = EngineRelay(self.plan, "tiny", self.address, token=self.token, node=node)
        self.relays.append(relay)
        relay.start()
        await soon(relay.ready())
        return relay


@pytest.fixture(scope="module")
def plan(plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = write_f32(tmp_path_factory.mktemp("remote") / "f32.gguf")
    return plan_on_cpu(path, n_ctx=2 * LONG, parallel=2, **EXACT)


@asynccontextmanager
async def switching() -> AsyncIterator[tuple[Switchboard, tuple[str, int]]]:
    switchboard = Switchboard()
    address = await switchboard.start("127.0.0.1")
    try:
        yield switchboard, address
    finally:
        switchboard.close()


@pytest.fixture
async def remote(plan: Plan) -> AsyncIterator[Remote]:
    async with AsyncExitStack() as stack:
        switchboard, address = await stack.enter_async_context(switching())
        remote = Remote(plan, switchboard, address)
        remote.engine.start()
        yield remote
        await soon(remote.engine.stop())
        for relay in remote.relays:
            await soon(relay.stop())


async def answer(remote: Remote, name: str, **options: Any) -> list[TokenEvent]:
    events = remote.engine.generate(make_request(name, **{"max_tokens": 24, **options}))
    return [event async for event in events]


async def test_answers_survive_the_loss_of_their_node(remote: Remote) -> None:
    first = await remote.add_relay("first")
    engine = remote.engine
    assert (await soon(engine.ready())).name == "tiny"
    whole = await soon(answer(remote, "whole"))
    tokens = await soon(engine.tokenize("hello", add_special=False, parse_special=False))
    assert b"".join(await soon(engine.pieces(tokens))).decode() == "▁hello"

    async with aclosing(engine.generate(make_request("begun", max_tokens=LONG))) as begun:
        async with aclosing(
            engine.generate(make_request("unseeded", max_tokens=LONG, sampling=SamplingParams()))
        ) as unseeded:
            events = [await soon(anext(begun)), await soon(anext(begun))]
            await soon(anext(unseeded))
            queued = asyncio.create_task(answer(remote, "queued"))
            await until(lambda: "queued" in engine.in_flight.waiting, "a request that waits")
            await soon(first.stop())
            await until(lambda: engine.state is EngineState.LOADING, "the loss")
            while_away = asyncio.create_task(answer(remote, "while-away"))
            with pytest.raises(EngineDied, match="replica on first is gone"):
                async for _ in unseeded:
                    pass

        await remote.add_relay("second")
        assert text_of(await soon(queued)) == text_of(whole)
        assert text_of(await soon(while_away)) == text_of(whole)
        events += [await soon(anext(begun)) for _ in range(60)]
    assert text_of(events).startswith(text_of(whole))  # it went on where the first node had ended
    assert (engine.node, engine.n_restarts, engine.state) == ("second", 1, EngineState.READY)


async def test_a_replica_that_leaves_finishes_its_requests(remote: Remote) -> None:
    first = await remote.add_relay("first")
    engine = remote.engine
    await soon(engine.ready())
    asked = make_request("begun", max_tokens=300, sampling=SamplingParams())
    async with aclosing(engine.generate(asked)) as begun:
        n_tokens = len((await soon(anext(begun))).token_ids)
        leaving = asyncio.create_task(first.leave(60))
        await until(lambda: engine.state is EngineState.LOADING, "the farewell")
        later = asyncio.create_task(answer(remote, "later"))
        n_tokens += sum([len(event.token_ids) async for event in begun])
    assert n_tokens == 300
    await soon(leaving)
    assert not later.done()
    await remote.add_relay("second")
    await soon(first.stop())
    assert len(text_of(await soon(later))) > 0
    assert engine.node == "second"


async def test_a_relay_outlives_its_engine(remote: Remote, caplog: pytest.LogCaptureFixture) -> None:
    relay = await remote.add_relay("first")
    await soon(remote.engine.ready())
    whole = await soon(answer(remote, "whole"))
    assert relay._process is not None
    relay._process.kill()
    await until(lambda: remote.engine.n_restarts == 1, "the loss")
    assert text_of(await soon(answer(remote, "again"))) == text_of(whole)
    assert relay.n_restarts == 1


@pytest.mark.parametrize("speech", [struct.pack("<I", 2**31), struct.pack("<I", 3) + b"\xc1\xc1\xc1", b""])
async def test_strangers_are_refused(speech: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with switching() as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(speech)
        writer.write_eof()
        assert await soon(reader.read()) == b""
        writer.close()
    assert "a connection to the port for replicas is refused" in caplog.text


async def test_a_replica_needs_the_token(remote: Remote, caplog: pytest.LogCaptureFixture) -> None:
    remote.token = "another"
    await remote.add_relay("stranger")
    await until(lambda: "it has another token" in caplog.text, "the refusal")
    assert remote.engine.info is None


async def test_a_connection_that_says_nonsense_ends_and_the_next_one_is_taken(
    remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection(*remote.address)
    writer.write(pack_hello(Hello(remote.token, "tiny", "odd", remote.plan)))
    writer.write(struct.pack("<I", 3) + b"\xc1\xc1\xc1")
    await until(lambda: "the connection to the replica on odd is closed" in caplog.text, "the end")
    writer.close()
    await remote.add_relay("first")
    await soon(remote.engine.ready())
    assert remote.engine.node == "first"
