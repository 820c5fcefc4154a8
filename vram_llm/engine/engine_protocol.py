"""The interface of an engine. EngineClient implements it; so does the fake in the tests."""

from collections.abc import AsyncGenerator
from typing import Protocol

from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.adapters import Adapters
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.engine.request import EmbeddingRequest, Image, Request, TokenEvent
from vram_llm.engine.slot_order import SlotDone, SlotOrder
from vram_llm.engine.unread_events import TakeEvent
from vram_llm.engine.wire import Embedded

MAX_CHARS = 2**20  # of the texts that a request asks to tokenize


class Engine(Protocol):
    """A model that is loaded or loading."""

    @property
    def state(self) -> EngineState: ...

    @property
    def info(self) -> ModelInfo | None:
        """None until the model was loaded for the first time."""

    adapters: Adapters | None
    """LoRA adapters of later requests that name none; None: all, as planned. It may be set."""

    @property
    def detail(self) -> str:
        """One phrase about `state`: "loading, 43 %", "restarting after a crash", or ""."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the operator while it serves; usually none."""

    @property
    def activity(self) -> EngineActivity:
        """Its work now, and since the server's start."""

    async def tokenize(
        self, text: str, *, add_special: bool, parse_special: bool, images: tuple[Image, ...] = ()
    ) -> list[int]:
        """The token ids of `text`; -1 for each row of an image. Raises EngineDied, RequestError."""

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        """The bytes of each token. Raises EngineDied."""

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """The embeddings or scores of the request's inputs. Raises RequestError, Overloaded, EngineDied.

        Cancelling the task that waits cancels the request.
        """

    async def order_slot(self, order: SlotOrder) -> SlotDone:
        """Save, restore or erase a slot, once no request runs there; `error` is None in the answer.

        Raises RequestError if that is refused, EngineDied, and VramLLMError if the disk or the host fails.
        """

    def cancel(self, request_id: str, client: str | None) -> bool:
        """End a request of a client, or of anybody (None), with RequestCancelled. False: there is none.

        `request_id` is its own, or its reply's, whose sequences all end.
        """

    def seconds_until_done(self, n: int, client: str) -> float:
        """The expected time until `n` sequences of a client have ended, in seconds."""

    def queue_s(self, request_id: str) -> float:
        """How long a request in flight has waited for a free sequence, in seconds."""

    def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """Run one request. Only the last event has a `finish_reason`.

        Closing the generator, or cancelling the task that waits in it, frees the sequence. Raises
        RequestError (ContextExceeded) and Overloaded before the first event, EngineDied at any time; other
        faults arrive as an event with FinishReason.ERROR.
        """

    def offer_events(self, request_id: str, take: TakeEvent) -> None:
        """Offer the events of a request to `take` as soon as they come. Call right before `generate` runs it.

        An event is offered only while the reader of `generate` waits for it, and the last one never is. The
        reader gets those for which `take` returns False. An engine may offer none.
        """
