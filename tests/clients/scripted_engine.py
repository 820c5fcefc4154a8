"""An engine whose model is a script. Everything in front of it is the real server."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path

from tests.clients.script import instance, written
from tests.server.fake_engine import FakeEngine
from vram_llm.engine.adapters import Adapters
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.engine.request import EmbeddingRequest, FinishReason, GrammarKind, Image, Request, TokenEvent
from vram_llm.engine.slot_order import SlotDone, SlotOrder
from vram_llm.engine.unread_events import TakeEvent
from vram_llm.engine.wire import Embedded
from vram_llm.errors import ContextExceeded, RequestError

TEMPLATE = Path(__file__).parent / "template.jinja"
_PIECE = re.compile(r"\s*\S{1,5}|\s+")
INFO = ModelInfo(
    name="scripted",
    path="/models/scripted-Q8_0.gguf",
    architecture="llama",
    parameters=1000,
    size_bytes=4000,
    n_vocab=32_000,
    n_ctx=262_144,
    n_ctx_train=262_144,
    parallel=4,
    chat_template=TEMPLATE.read_text(),
    bos_token="<s>",
    eos_token="<|im_end|>",
    created=1_700_000_000,
)


class ScriptedEngine:
    """Writes `script.written` of each prompt, five characters or so in an event."""

    state = EngineState.READY
    info = INFO
    detail = ""
    warnings = ()

    activity = FakeEngine().activity

    def start(self) -> None: ...

    async def ready(self) -> ModelInfo:
        return INFO

    def offer_events(self, request_id: str, take: TakeEvent) -> None:
        """It offers none."""

    def cancel(self, request_id: str, client: str | None) -> bool:
        return False

    def seconds_until_done(self, n: int, client: str) -> float:
        return 1.0

    def queue_s(self, request_id: str) -> float:
        return 0.0

    async def drain(self, grace_s: float) -> None:
        self.state = EngineState.STOPPING

    async def stop(self) -> None: ...

    async def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """Obeys `stop`, `max_tokens` and a JSON schema. Raises ContextExceeded."""
        prompt = request.prompt if isinstance(request.prompt, str) else ""
        n_prompt = len(_pieces(prompt))
        if n_prompt >= INFO.n_ctx:
            raise ContextExceeded(f"The prompt has {n_prompt} tokens; the context has {INFO.n_ctx}")
        text = _grammatical(request) if request.grammar is not None else written(prompt)
        found = [(text.index(stop), stop) for stop in request.stop if stop in text]
        at, stop = min(found, default=(len(text), None))
        pieces = _pieces(text[:at])
        n = len(pieces) if request.max_tokens is None else min(request.max_tokens, len(pieces))
        for i, piece in enumerate(pieces[:n]):
            await asyncio.sleep(0)  # as the real one, which waits for events
            yield TokenEvent(
                id=request.id,
                text=piece,
                token_ids=(i,),
                prompt_tokens=n_prompt,
                completion_tokens=i + 1,
            )
        yield TokenEvent(
            id=request.id,
            prompt_tokens=n_prompt,
            completion_tokens=n,
            finish_reason=FinishReason.STOP if n == len(pieces) else FinishReason.LENGTH,
            stop=stop,
        )

    async def tokenize(
        self, text: str, *, add_special: bool, parse_special: bool, images: tuple[Image, ...] = ()
    ) -> list[int]:
        """One token for each piece; the ids mean nothing."""
        return list(range(len(_pieces(text))))

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        return [b"x" for _ in tokens]

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        raise RequestError("the scripted model makes no embeddings")

    adapters: Adapters | None = None

    async def order_slot(self, order: SlotOrder) -> SlotDone:
        raise RequestError("the scripted model has no slots")


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(text)


def _grammatical(request: Request) -> str:
    grammar = request.grammar
    assert grammar is not None
    if grammar.kind is GrammarKind.MARKED:  # calls, or an answer
        text = written(str(request.prompt))
        if "<tool_call>" in text or grammar.answer is None:
            return text
        grammar = grammar.answer
    if grammar.kind is not GrammarKind.JSON_SCHEMA:
        raise RequestError(f"the scripted model knows no {grammar.kind}", grammar.field)
    return json.dumps(instance(json.loads(grammar.text)))
