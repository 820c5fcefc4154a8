"""The last bytes of a stream, its memory, and the streams of conversations."""

import asyncio

import pytest

from tests.patience import soon
from vram_llm.server.resumable.buffer import OffsetLost, StreamBuffer
from vram_llm.server.resumable.streams import KEPT_S, MAX_STREAM_BYTES, ResumableStreams


async def test_readers_get_all_bytes_from_their_offset() -> None:
    buffer = StreamBuffer(100)
    buffer.append(b"abc")
    assert await buffer.read(1) == b"bc"
    waiting = [asyncio.ensure_future(buffer.read(3)) for _ in range(2)]
    await asyncio.sleep(0)  # the readers wait then
    buffer.append(b"de")
    assert await soon(asyncio.gather(*waiting)) == [b"de", b"de"]
    last = asyncio.ensure_future(buffer.read(5))
    await asyncio.sleep(0)  # the readers wait then
    buffer.complete()
    assert await soon(last) == b""
    assert await buffer.read(0) == b"abcde"


@pytest.mark.parametrize("pieces", [[b"abcdef"], [b"ab", b"cdef"], list(map(bytes, zip(b"abcdef")))])
async def test_the_first_bytes_are_dropped(pieces: list[bytes]) -> None:
    buffer = StreamBuffer(4)
    for piece in pieces:
        buffer.append(piece)
    assert (buffer.n_bytes, buffer.n_dropped, buffer.n_kept) == (6, 2, 4)
    assert await buffer.read(2) == b"cdef"
    with pytest.raises(OffsetLost):
        await buffer.read(1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_stream_is_kept_for_a_while_after_its_end() -> None:
    clock = Clock()
    streams = ResumableStreams(clock)
    stream = streams.begin(0, "a")
    stream.has_begun = True
    clock.now += KEPT_S * 5
    assert streams.find(0, "a") is stream  # it goes on
    streams.end(0, stream)
    clock.now += KEPT_S - 1
    assert streams.find(0, "a") is stream
    clock.now += 1
    assert streams.find(0, "a") is None


async def test_a_stream_that_never_begins_is_forgotten() -> None:
    streams = ResumableStreams()
    streams.end(0, streams.begin(0, "a"))
    assert streams.find(0, "a") is None


async def test_one_stream_a_conversation() -> None:
    streams = ResumableStreams()
    first = streams.begin(0, "a")
    second = streams.begin(0, "a")
    assert first.stopped.is_set()
    assert first.buffer.is_complete
    streams.end(0, first)
    assert streams.find(0, "a") is second
    assert not second.stopped.is_set()
    streams.stop(0, "a")
    streams.stop(0, "a")
    assert second.stopped.is_set()
    assert streams.find(0, "a") is None


async def test_keys_do_not_see_each_others_streams() -> None:
    streams = ResumableStreams()
    mine = streams.begin(1, "a::m")
    streams.begin(2, "a::m")
    assert streams.matching(1, ["a"]) == [mine]
    assert streams.matching(1, ["x", "a::m"]) == [mine]
    assert streams.matching(1, [""]) == []
    other, odd = streams.begin(1, "b:::m::n"), streams.begin(1, "::m")
    for conversation_id in ("b", "b:", "b:::m", "b:::m::n"):
        assert streams.matching(1, [conversation_id]) == [other]
    assert streams.matching(1, ["b::", "b:::", "m", "", ":"]) == []
    assert streams.matching(1, ["::m", "b", "a"]) == [mine, other, odd]
    assert streams.find(3, "a::m") is None
    streams.stop(3, "a::m")
    assert not mine.stopped.is_set()


async def test_the_memory_of_all_streams_is_bounded() -> None:
    streams = ResumableStreams(max_bytes=100, max_streams=4)
    for i in range(40):
        stream = streams.begin(0, f"{i}")
        stream.has_begun = True
        stream.buffer.append(bytes(80))
        if i % 2:
            streams.end(0, stream)
        kept = [found for j in range(40) if (found := streams.find(0, f"{j}")) is not None]
        assert sum(each.buffer.n_kept for each in kept) <= 100
        assert sum(each.ended_at > 0 for each in kept) <= 4
    assert all(streams.find(0, f"{i}") for i in range(0, 40, 2))  # those that go on


async def test_few_streams_have_llama_servers_size() -> None:
    streams = ResumableStreams()
    stream = streams.begin(0, "a")
    stream.buffer.append(bytes(MAX_STREAM_BYTES + 1))
    assert stream.buffer.n_kept == MAX_STREAM_BYTES
