"""Messages of the engine are taken whole and in order, however their bytes come."""

import asyncio

import pytest

from vram_llm.engine import wire
from vram_llm.engine.engine_reader import EngineReader
from vram_llm.engine.request import DecodeTick
from vram_llm.errors import EngineDied, VramLLMError

MESSAGES: list[wire.FromEngine] = [
    wire.Loading(0.5),
    DecodeTick([" a", "b" * 300], [5, 6], ["x", "y"]),
    wire.Notice("n" * 70_000),
    wire.Waiting([]),
]
BYTES = b"".join(map(wire.pack, MESSAGES))


@pytest.mark.parametrize("n", [1, 3, 4, 5, 4096, len(BYTES)])
async def test_messages_are_the_same_for_any_cut(n: int) -> None:
    taken: list[wire.FromEngine] = []
    reader = EngineReader(taken.append)
    for start in range(0, len(BYTES), n):
        reader.data_received(BYTES[start : start + n])
    assert taken == MESSAGES
    assert not reader.ended.done()
    reader.connection_lost(None)
    assert await reader.ended is None


async def test_a_message_cut_off_by_the_end_is_dropped() -> None:
    taken: list[wire.FromEngine] = []
    reader = EngineReader(taken.append)
    reader.data_received(BYTES[:-1])
    reader.connection_lost(ConnectionResetError())
    assert taken == MESSAGES[:-1]
    assert await reader.ended is None


async def test_nothing_is_taken_after_an_error() -> None:
    taken: list[wire.FromEngine] = []

    def take(message: wire.FromEngine) -> VramLLMError | None:
        taken.append(message)
        return EngineDied("no memory") if isinstance(message, DecodeTick) else None

    reader = EngineReader(take)
    reader.data_received(BYTES)
    reader.data_received(BYTES)
    assert taken == MESSAGES[:2]
    assert str(await reader.ended) == "no memory"


async def test_an_exception_reaches_whoever_awaits_the_end() -> None:
    def take(_: wire.FromEngine) -> None:
        raise ZeroDivisionError

    reader = EngineReader(take)
    reader.data_received(BYTES)
    with pytest.raises(ZeroDivisionError):
        await reader.ended


async def test_after_a_stop_messages_are_dropped() -> None:
    taken: list[wire.FromEngine] = []
    reader = EngineReader(taken.append)
    reader.stop()
    reader.data_received(BYTES)
    assert taken == []
    assert asyncio.isfuture(reader.ended)
    assert await reader.ended is None
