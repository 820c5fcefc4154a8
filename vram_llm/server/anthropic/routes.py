"""POST /v1/messages and /v1/messages/count_tokens."""

import asyncio
import logging
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.efforts import OFF
from vram_llm.engine.model_info import ModelInfo
from vram_llm.errors import RequestError
from vram_llm.server.anthropic.blocks import messages_of
from vram_llm.server.anthropic.context import NOTHING_CLEARED
from vram_llm.server.anthropic.errors import anthropic_response
from vram_llm.server.anthropic.fields import CountFields, MessagesFields
from vram_llm.server.anthropic.tools import Toolbox, toolbox
from vram_llm.server.anthropic.writer import MessageReply, MessageWriter, TokenCount
from vram_llm.server.generation import news, sequences
from vram_llm.server.json_reply import JsonReply
from vram_llm.server.openapi import body_route, generation_route
from vram_llm.server.parsed_stream import SpokenNews, spoken
from vram_llm.server.prompt import Turn, make_turn
from vram_llm.server.replies import Tally
from vram_llm.server.schemas import parse
from vram_llm.server.serving_model import Served, template_source
from vram_llm.server.sse import EventStream
from vram_llm.server.tools import ToolUse

log = logging.getLogger(__name__)


def anthropic_router(served: Served) -> APIRouter:
    """Routes for Anthropic's clients."""
    router = APIRouter(tags=["messages"])

    @router.post("/messages", **generation_route("Answer messages", MessagesFields, MessageReply))
    async def answer(http: Request) -> Response:
        fields = parse(MessagesFields, await http.body())
        info = served.writing_model(fields.model)
        turn, box = await asyncio.to_thread(_turn, served, info, fields)
        tally = Tally(1)
        writer = MessageWriter(
            info.name,
            tally,
            shows_thinking=fields.shows_thinking,
            context_management=NOTHING_CLEARED if fields.context_management else None,
            warnings=list(box.left_out.values()),
        )
        requests = sequences(
            fields,
            [turn.prompt],
            info,
            reply_id=writer.reply.id,
            add_bos=turn.add_bos,
            max_tokens=fields.max_tokens,
            marks=turn.marks,
            grammar=turn.grammar,
            images=turn.images,
            reasoning_budget=turn.reasoning_budget,
        )
        said = spoken(news(served.engine, requests), [turn.new_parser()], one_call=turn.one_call)
        if fields.stream:
            return EventStream(writer, said, served.config.sse_ping_interval_s, anthropic_response)
        return JsonReply(_written(writer, said), served.config.sse_ping_interval_s, anthropic_response)

    @router.post("/messages/count_tokens", **body_route("Count a prompt's tokens", CountFields, TokenCount))
    async def count(http: Request) -> TokenCount:
        fields = parse(CountFields, await http.body())
        turn, _ = await asyncio.to_thread(_turn, served, served.writing_model(fields.model), fields)
        tokens = await served.engine.tokenize(
            turn.prompt, add_special=turn.add_bos, parse_special=True, images=turn.images
        )
        cleared = {"original_input_tokens": len(tokens)} if fields.context_management else None
        return TokenCount(input_tokens=len(tokens), context_management=cleared)

    return router


def _turn(served: Served, info: ModelInfo, fields: CountFields) -> tuple[Turn, Toolbox]:
    fields.check(info.n_ctx)
    pictures = served.pictures(info)
    box = toolbox(fields.tools or (), fields.messages)
    for reason in box.left_out.values():
        log.warning("A tool is left out: %s", reason)
    messages = messages_of(fields.system, fields.messages, pictures)
    use = box.use(fields.choice(), fields.parallel)
    turn = make_turn(
        info,
        messages,
        use,
        pictures,
        config=served.config,
        effort=_effort(info, fields, use),
        effort_field="thinking" if fields.thinking else "output_config.effort",
        grammar=fields.grammar_wanted(),
        reasoning_budget=fields.thinking_budget,
        continues=_continues(messages),
    )
    return turn, box


def _effort(info: ModelInfo, fields: CountFields, use: ToolUse) -> str | None:
    """The effort for the template. Clients send one to any model: it is advice.

    A model whose thinking is not parsed is left as it is, so that none of it gets into the answer.
    """
    is_parsed = dialect_of(template_source(info, tools=bool(use.tools))).thinking is not None
    return fields.effort if is_parsed or fields.effort in OFF else None


def _continues(messages: list[dict[str, Any]]) -> bool:
    """Whether the answer goes on where the last message ends. Raises RequestError."""
    last = messages[-1] if messages else {"role": "user"}
    if last["role"] == "assistant" and last.get("tool_calls"):
        raise RequestError("The last message calls tools: send their results after it", "messages")
    return bool(last["role"] == "assistant")


async def _written(writer: MessageWriter, said: SpokenNews) -> bytes:
    """The whole message, without a stream."""
    async for index, item in said:
        writer.event(index, item)
    writer.closing()
    return writer.reply.model_dump_json().encode()
