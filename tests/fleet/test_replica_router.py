"""Which of several scripted engines gets which requests; test_replicas.py has the same with real engines."""

import asyncio
from typing import Any

import pytest

from tests.fleet.scripted_replica import ScriptedReplica
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import EmbeddingRequest, Request, TokenEvent
from vram_llm.errors import EngineDied, Overloaded, RequestCancelled
from vram_llm.fleet.replicas import ReplicaSet

PROMPT = tuple(range(100))


class Requests:
    """A set of replicas, and the tasks of its requests."""

    def __init__(self, *engines: ScriptedReplica) -> None:
        self.engines = engines
        self.set = ReplicaSet(engines)
        self.tasks: dict[str, asyncio.Task[list[TokenEvent]]] = {}

    async def ask(self, *names: str, prompt: tuple[int, ...] | None = None, **options: Any) -> None:
        """Submit requests, each with a prompt of its own unless one is given."""
        for number, name in enumerate(names, start=len(self.tasks)):
            own = tuple(range(1000 * number, 1000 * number + 100))
            wish = {"max_tokens": 50, "prompt": prompt or own, **options}
            self.tasks[name] = asyncio.create_task(self._answer(Request(id=name, **wish)))
            await self.turn()

    async def _answer(self, request: Request) -> list[TokenEvent]:
        return [event async for event in self.set.generate(request)]

    async def turn(self) -> None:
        for _ in range(9):  # each task has its turns
            await asyncio.sleep(0)  # a turn of the event loop

    async def finish(self, name: str, cached: int = 0) -> TokenEvent:
        engine = next(engine for engine in self.engines if name in engine.order)
        engine.finish(name, cached)
        (event,) = await self.tasks[name]
        await self.turn()
        return event

    @property
    def at(self) -> list[list[str]]:
        return [engine.order for engine in self.engines]


async def test_unequal_replicas_get_unequal_shares() -> None:
    requests = Requests(ScriptedReplica(0.01, parallel=8), ScriptedReplica(0.02, parallel=8))
    await requests.ask(*map(str, range(12)))
    assert [len(names) for names in requests.at] == [8, 4]


async def test_prompts_go_where_their_beginning_is_unless_another_finishes_sooner() -> None:
    requests = Requests(ScriptedReplica(), ScriptedReplica())
    await requests.ask("a", prompt=PROMPT)
    await requests.ask("other")
    assert requests.at == [["a"], ["other"]]
    await requests.finish("other")
    await requests.ask("again", prompt=PROMPT)
    assert requests.at == [["a", "again"], []]
    await requests.ask("third", prompt=PROMPT)
    assert requests.at == [["a", "again"], ["third"]], "the holder has no slot"
    assert (await requests.finish("again", cached=96)).cached_tokens == 96


async def test_a_beginning_that_the_engine_has_dropped_is_no_longer_counted_on() -> None:
    requests = Requests(ScriptedReplica(parallel=4), ScriptedReplica(parallel=4))
    await requests.ask("a", prompt=PROMPT)
    await requests.ask("b", prompt=(7, *PROMPT))
    await requests.ask("a again", prompt=PROMPT)
    assert requests.at == [["a", "a again"], ["b"]]
    await requests.finish("a again", cached=0)
    assert requests.set.replicas[0].index.find(()).length == 0
    await requests.ask("once more", prompt=PROMPT)
    assert "once more" in requests.at[0], "its prompt has been computed again"


async def test_a_full_replica_leaves_requests_to_others() -> None:
    requests = Requests(ScriptedReplica(), ScriptedReplica())
    requests.engines[0].refusal = Overloaded("full", 3.0)
    await requests.ask("a")
    assert requests.at == [[], ["a"]]
    requests.engines[1].refusal = Overloaded("full", 2.0)
    await requests.ask("b")
    with pytest.raises(Overloaded) as error:
        await requests.tasks["b"]
    assert error.value.retry_after_s == 2.0
    with pytest.raises(Overloaded):
        await requests.set.embed(EmbeddingRequest(id="e", inputs=("x",)))
    requests.engines[0].refusal = None
    assert (await requests.set.embed(EmbeddingRequest(id="e", inputs=("x",)))).n_tokens == [1]


async def test_the_requests_of_a_dead_replica_go_to_the_other_and_new_ones_come_back() -> None:
    requests = Requests(ScriptedReplica(), ScriptedReplica())
    await requests.ask(*"abcdef")
    dying, other = requests.engines
    dying.die()
    await requests.turn()
    assert dying.order == []
    assert set(other.order) == set("abcdef")
    assert requests.set.state is EngineState.READY
    dying.come_back()
    await requests.turn()
    assert len(dying.order) == 2, "it takes requests that wait"
    for name in "abcdef":
        await requests.finish(name)
    assert [len(await task) for task in requests.tasks.values()] == [1] * 6


async def test_requests_wait_for_a_restart_if_no_replica_works() -> None:
    requests = Requests(ScriptedReplica(), ScriptedReplica())
    await requests.ask("a", "b")
    for engine in requests.engines:
        engine.die()
    await requests.turn()
    assert requests.set.state is EngineState.LOADING
    await requests.ask("c")
    assert {*requests.at[0], *requests.at[1]} == {"a", "b", "c"}
    requests.engines[1].come_back()
    await requests.turn()
    assert (requests.at[0], sorted(requests.at[1])) == ([], ["a", "b", "c"]), "the first one may stay away"
    for engine in requests.engines:
        engine.change(EngineState.STOPPING)
    await requests.ask("d")
    with pytest.raises(EngineDied, match="not ready"):
        await requests.tasks["d"]


async def test_while_the_set_stops_each_replica_keeps_its_requests() -> None:
    requests = Requests(ScriptedReplica(parallel=1), ScriptedReplica(parallel=1))
    await requests.ask(*"abcd")
    before = [list(names) for names in requests.at]
    for engine in requests.engines:
        engine.change(EngineState.STOPPING)
        await requests.turn()
    assert requests.at == before
    for name in "abcd":
        await requests.finish(name)


async def test_a_free_replica_takes_the_request_whose_client_runs_least() -> None:
    requests = Requests(ScriptedReplica(parallel=1), ScriptedReplica(parallel=1))
    await requests.ask("a1", "a2", client="ann")
    await requests.ask("a3", "a4", "a5", client="ann")
    await requests.ask("b1", client="bob")
    free = next(i for i, names in enumerate(requests.at) if "b1" not in names)
    for name in list(requests.at[free]):
        await requests.finish(name)
    assert "b1" in requests.at[free]


async def test_a_request_on_its_way_is_cancelled_too() -> None:
    requests = Requests(ScriptedReplica(), ScriptedReplica())
    await requests.ask("a")
    requests.engines[0].die()
    assert requests.set.cancel("a", None)
    with pytest.raises(RequestCancelled):
        await requests.tasks["a"]
    assert requests.at == [[], []]
    assert not requests.set.cancel("a", None)
