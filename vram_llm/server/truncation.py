"""Drops a chat's oldest turns until its prompt and its answer fit the context, if the request asks for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from vram_llm.engine.model_info import ModelInfo
from vram_llm.errors import ContextExceeded
from vram_llm.server.prepare_chat import PreparedChat
from vram_llm.server.request_record import record_of_request
from vram_llm.server.serving_context import ServingContext
from vram_llm.server.worker_threads import prepare_in_thread

T = TypeVar("T")
_ALL = 2**31  # more cuts than a chat has: everything that may be dropped
_SHARE = 4  # a quarter of the context is kept for an answer without a limit


@dataclass(frozen=True, slots=True)
class AnswerRoom:
    """Tokens that the context keeps for an answer.

    Turns are dropped until there are `wanted`. With fewer than `least` the request is refused.
    """

    wanted: int
    least: int


def answer_room(
    asked: bool | None, limit: int | None, n_ctx: int, *, allowed: bool = False
) -> AnswerRoom | None:
    """The room for an answer of at most `limit` tokens (None: no limit); None: nothing is dropped.

    `asked` is the request's `truncate`. If it is None, turns are dropped if the server's `--truncate` or
    OpenAI's `truncation` has `allowed` it: then a limit above a quarter of the context, which many clients
    send with every request, costs no turns beyond that quarter.
    """
    share = n_ctx // _SHARE
    if asked:
        return AnswerRoom(share, 1) if limit is None else AnswerRoom(limit, limit)
    if asked is None and allowed:
        return AnswerRoom(share if limit is None else min(limit, share), 1)
    return None


async def prepare_to_fit(
    serving: ServingContext,
    info: ModelInfo,
    room: AnswerRoom | None,
    prepare: Callable[[int], T],
    prepared_of: Callable[[T], PreparedChat],
) -> T:
    """The request with as few of its oldest turns dropped as leaves `room`; None: with all turns.

    `prepare` makes it, in a thread, without the turns before the cut of a number (see chat.oldest_turns; 0:
    with all). Raises ContextExceeded if too little room is left without all turns that may be dropped, and
    the errors of `prepare` and of the engine.
    """
    if room is None:
        return await prepare_in_thread(prepare, 0)

    async def attempt(n_cuts: int) -> tuple[T | None, int]:
        """The request and its prompt's tokens; None and an estimate if it is too long to be counted."""
        try:
            turn = await prepare_in_thread(prepare, n_cuts)
        except ContextExceeded as error:
            if n_cuts == _ALL:
                raise
            return None, error.n_prompt_tokens or info.n_ctx
        return turn, await n_prompt_tokens(serving, prepared_of(turn))

    best, n_tokens = await attempt(0)
    if best is None or n_tokens + room.wanted > info.n_ctx:
        best, n_tokens = await attempt(_ALL)
        assert best is not None
        _check_room(info, n_tokens, room.least)
        low, high = 0, prepared_of(best).n_cuts
        while high - low > 1:
            middle = (low + high) // 2
            turn, n_tokens = await attempt(middle)
            if turn is not None and n_tokens + room.wanted <= info.n_ctx:
                best, high = turn, middle
            else:
                low = middle
    record_of_request().dropped_messages = prepared_of(best).dropped_messages
    return best


async def n_prompt_tokens(serving: ServingContext, prepared: PreparedChat) -> int:
    """The tokens of a prompt, rows of images among them. Raises the errors of the engine."""
    tokens = await serving.engine.tokenize(
        prepared.prompt, add_special=prepared.add_bos, parse_special=True, images=prepared.images
    )
    return len(tokens)


def _check_room(info: ModelInfo, n_tokens: int, least: int) -> None:
    """Raises ContextExceeded if the context has no room for an answer of `least` tokens."""
    over = n_tokens + least - info.n_ctx
    if over > 0:
        raise ContextExceeded(
            f"Without all turns that may be dropped, the prompt has {n_tokens:,} tokens; with an answer of "
            f"{least:,} that is {over:,} more than the context's {info.n_ctx:,}: ask for a shorter answer, "
            "shorten the system message or the last message, or serve with a larger --n-ctx",
            "truncate",
            n_prompt_tokens=n_tokens,
            n_ctx=info.n_ctx,
        )
