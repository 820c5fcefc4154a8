"""GET /slots: the sequences that are computed at once, as llama-server's clients read them."""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request_metrics import RequestSnapshot
from vram_llm.server.config import ServerConfig
from vram_llm.server.errors import RouteIsOff, Unavailable
from vram_llm.server.metrics.shown_requests import shown_requests
from vram_llm.server.openapi import refusals
from vram_llm.server.replies import PRESENT
from vram_llm.server.serving_context import ServingContext


class NextToken(BaseModel):
    """How far a sequence is; `n_remain` of -1: to the end of the context."""

    has_next_token: bool
    has_new_line: bool = False
    n_remain: int
    n_decoded: int


class SlotState(BaseModel):
    """A slot, with the fields of llama-server's server_slot::to_json; `id_task` is a request's id here."""

    id: int
    model: Annotated[str | None, PRESENT] = None  # if the server has several
    n_ctx: int
    speculative: bool
    is_processing: bool
    id_task: Annotated[str | None, PRESENT] = None
    n_prompt_tokens: Annotated[int | None, PRESENT] = None
    n_prompt_tokens_processed: Annotated[int | None, PRESENT] = None
    n_prompt_tokens_cache: Annotated[int | None, PRESENT] = None
    params: Annotated[dict[str, Any] | None, PRESENT] = None
    next_token: list[NextToken] = Field(default_factory=list, exclude_if=lambda value: not value)


class SlotNumbers:
    """Gives each request a number that it keeps, the lowest free one."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, running: Iterable[RequestSnapshot], n_slots: int) -> dict[str, int]:
        """The numbers of the requests that run now, below `n_slots` unless more of them run.

        They are the engine's. Replicas have each their own, so some of theirs get other ones.
        """
        own = {each.slot: each.id for each in running if each.slot is not None}
        numbers = {request_id: number for number, request_id in own.items()}
        ids = [each.id for each in running]
        for i in ids:
            if (number := self._numbers.get(i, n_slots)) < n_slots and number not in own:
                numbers.setdefault(i, number)
        taken = set(numbers.values())
        free = (number for number in range(len(ids)) if number not in taken)
        numbers |= {i: next(free) for i in ids if i not in numbers}
        self._numbers = numbers
        return numbers


def slots_router(serving: ServingContext) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["metrics"], responses=refusals(501, 503))
    numbers = SlotNumbers()

    @router.get("/slots", summary="Sequences that are computed")
    async def slots(fail_on_no_slot: Annotated[str, Query()] = "") -> list[SlotState]:
        check_is_on(serving.config)
        info, activity = serving.loaded_model(), serving.engine.activity
        found = slot_states(info, activity, shown_requests(serving), numbers)
        if fail_on_no_slot and all(slot.is_processing for slot in found):
            raise Unavailable("no slot available")
        return found

    return router


def check_is_on(config: ServerConfig) -> None:
    """Raises RouteIsOff."""
    if not config.endpoint_slots:
        raise RouteIsOff("GET /slots is off by --no-slots")


def slot_states(
    info: ModelInfo, activity: EngineActivity, requests: Iterable[RequestSnapshot], numbers: SlotNumbers
) -> list[SlotState]:
    """The slots of a model with these requests in flight."""
    running = {each.id: each for each in requests if each.state != "waiting"}
    by_number = {number: running[i] for i, number in numbers.of(running.values(), info.parallel).items()}
    held = dict(enumerate(activity.slots))
    is_speculative = activity.totals.n_drafts > 0
    return [
        _slot(number, info.n_ctx, is_speculative, by_number.get(number), held.get(number, 0))
        for number in range(max(info.parallel, len(by_number)))
    ]


def _slot(
    number: int, n_ctx: int, speculative: bool, request: RequestSnapshot | None, n_held: int
) -> SlotState:
    idle = SlotState(id=number, n_ctx=n_ctx, speculative=speculative, is_processing=request is not None)
    if request is None:
        return idle.model_copy(update={"n_prompt_tokens": n_held}) if n_held else idle
    n_prompt, n_cached = request.prompt_tokens or 0, request.cached_tokens or 0
    most, n_decoded = request.max_tokens, request.generated_tokens
    n_remain = -1 if most is None else most - n_decoded
    return idle.model_copy(
        update={
            "id_task": request.id,
            "n_prompt_tokens": n_prompt + n_decoded,
            "n_prompt_tokens_processed": (n_prompt - n_cached) if request.state == "decode" else 0,
            "n_prompt_tokens_cache": n_cached,
            "params": {"max_tokens": -1 if most is None else most, "n_predict": -1 if most is None else most},
            "next_token": [NextToken(has_next_token=True, n_remain=n_remain, n_decoded=n_decoded)],
        }
    )
