"""An engine with scripted answers, in place of the real client."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np

from tests.planner.saved import saved_plan
from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.adapters import Adapters
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.engine.recent_load import RecentRates
from vram_llm.engine.request import EmbeddingRequest, FinishReason, Image, Request, TokenEvent
from vram_llm.engine.request_metrics import RequestMetrics
from vram_llm.engine.slot_order import SlotDone, SlotOrder
from vram_llm.engine.stats import EngineStats
from vram_llm.engine.unread_events import TakeEvent
from vram_llm.engine.wire import Embedded
from vram_llm.model.pooling import Pooling
from vram_llm.planner.types import Plan

Step = TokenEvent | Exception | asyncio.Event  # to say, to raise, to wait for
Script = Callable[[Request], Sequence[Step]]

INFO = ModelInfo(
    name="tiny",
    path="/models/tiny-Q8_0.gguf",
    architecture="llama",
    parameters=1000,
    size_bytes=4000,
    n_vocab=100,
    n_ctx=512,
    n_ctx_train=512,
    parallel=4,
    chat_template=None,
    bos_token="<s>",
    eos_token="</s>",
    created=1_700_000_000,
)


def says(*texts: str, ending: FinishReason = FinishReason.STOP, prompt_tokens: int = 5) -> Script:
    """One event per text, then a last event without text."""

    def script(request: Request) -> list[Step]:
        steps: list[Step] = [
            TokenEvent(
                id=request.id,
                text=text,
                token_ids=(i,),
                prompt_tokens=prompt_tokens,
                completion_tokens=i + 1,
            )
            for i, text in enumerate(texts)
        ]
        end = TokenEvent(
            id=request.id, prompt_tokens=prompt_tokens, completion_tokens=len(texts), finish_reason=ending
        )
        return [*steps, end]

    return script


def fails(*first: str, error: str) -> Script:
    """Some texts, then an event with FinishReason.ERROR."""

    def script(request: Request) -> list[Step]:
        end = TokenEvent(id=request.id, finish_reason=FinishReason.ERROR, error=error)
        return [*says(*first)(request)[:-1], end]

    return script


class FakeEngine:
    """Keeps its requests (`requests`, `embedded`), and those whose generator closed early (`cancelled`)."""

    def __init__(self, script: Script | None = None, info: ModelInfo | None = INFO) -> None:
        self.script = script or says("Hello", " world")
        self.state = EngineState.READY
        self.info = info
        self.detail = ""
        self.warnings: tuple[str, ...] = ()
        self.plan: Plan = saved_plan([], [], n_layers=4)
        self.metrics = RequestMetrics(512)
        self.totals = EngineStats()
        self.requests: list[Request] = []
        self.embedded: list[EmbeddingRequest] = []
        self.cancelled: list[str] = []
        self.in_flight: set[str] = set()  # ids that `cancel` finds
        self.asked_to_cancel: list[tuple[str, str | None]] = []
        self.some_cancelled = asyncio.Event()
        self.adapters: Adapters | None = None
        self.slots: tuple[int, ...] = ()
        self.orders: list[SlotOrder] = []
        self.slot_error: str | None = None

    async def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        self.requests.append(request)
        complete = False
        try:
            for step in self.script(request):
                await asyncio.sleep(0)  # as the real one, which waits for news
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                    continue
                complete = step.finish_reason is not None
                yield step
        finally:
            if not complete:
                self.cancelled.append(request.id)
                self.some_cancelled.set()

    def offer_events(self, request_id: str, take: TakeEvent) -> None:
        """It offers none."""

    def cancel(self, request_id: str, client: str | None) -> bool:
        self.asked_to_cancel.append((request_id, client))
        return request_id in self.in_flight

    @property
    def activity(self) -> EngineActivity:
        return EngineActivity(
            plan=self.plan,
            pid=None,
            n_restarts=0,
            uptime_s=None,
            totals=self.totals,
            recent=RecentRates(0.0, 0.0, None, None),
            requests=tuple(self.metrics.snapshots(frozenset(), 0.0)),
            histograms=self.metrics.histograms,
            endings=self.metrics.endings,
            longest=self.metrics.longest,
            slots=self.slots,
        )

    def seconds_until_done(self, n: int, client: str) -> float:
        return 2.5 * n

    def queue_s(self, request_id: str) -> float:
        return 0.25

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """Rows of the lengths of their texts; text i of a query's has score i.

        With Pooling.NONE a row for each of their tokens, which counts them.
        """
        self.embedded.append(request)
        assert self.info is not None
        n = self.info.n_pooled
        first = [i if request.query is not None else len(text) for i, text in enumerate(request.inputs)]
        if self.info.pooling is Pooling.NONE:
            first = [i for text in request.inputs for i in range(len(text))]
        values = np.array([[value] * n for value in first], np.float32)
        return Embedded(request.id, values.tobytes(), [len(text) for text in request.inputs])

    async def order_slot(self, order: SlotOrder) -> SlotDone:
        """Done, with as many tokens as the slot's number; `slot_error` is the refusal."""
        self.orders.append(order)
        return SlotDone(order.id, order.slot, 10, 0.5, self.slot_error, "id_slot").checked()

    async def tokenize(
        self, text: str, *, add_special: bool, parse_special: bool, images: tuple[Image, ...] = ()
    ) -> list[int]:
        """A byte is a token, but for <s>, which is 1 where it is parsed; an image is one row."""
        head, _, tail = text.partition("<s>") if parse_special else ("", "", text)
        marks = [1] if parse_special and "<s>" in text else []
        tokens = [*head.encode(), *marks, *tail.encode(), *(-1 for _ in images)]
        return [1, *tokens] if add_special else tokens

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        return [b"<s>" if token == 1 else bytes([token]) for token in tokens]
