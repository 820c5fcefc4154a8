"""POST /v1/messages and /v1/messages/count_tokens."""

import logging
from functools import partial
from operator import itemgetter
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
from vram_llm.server.anthropic.tools import SortedAnthropicTools, sort_tools
from vram_llm.server.anthropic.writer import AnthropicTokenCount, MessageReply, MessageWriter
from vram_llm.server.direct_events import direct_events
from vram_llm.server.generation import engine_requests, stream_events
from vram_llm.server.json_reply import JsonReply
from vram_llm.server.openapi import body_route, generation_route
from vram_llm.server.parsed_stream import ChoiceParser, ParsedChunks, parse_stream
from vram_llm.server.prepare_chat import PreparedChat, TemplateInput, prepare_chat
from vram_llm.server.read_body import read_fields
from vram_llm.server.replies import UsageCounter
from vram_llm.server.request_record import record_of_request
from vram_llm.server.serving_context import ServingContext, template_source
from vram_llm.server.sse import EventStream
from vram_llm.server.thinking_fields import ThinkingSettings
from vram_llm.server.tools import ToolUse
from vram_llm.server.truncation import answer_room, n_prompt_tokens, prepare_to_fit

log = logging.getLogger(__name__)
_PreparedMessage = tuple[PreparedChat, SortedAnthropicTools]


def anthropic_router(serving: ServingContext) -> APIRouter:
    """Routes for Anthropic's clients."""
    router = APIRouter(tags=["messages"])

    @router.post("/messages", **generation_route("Answer messages", MessagesFields, MessageReply))
    async def answer(http: Request) -> Response:
        fields = await read_fields(MessagesFields, http)
        info = serving.generation_model(fields.model)
        prepared, sorted_tools = await _prepare(serving, info, fields)
        counter = UsageCounter(1, record_of_request().dropped_messages)
        writer = MessageWriter(
            info.name,
            counter,
            shows_thinking=fields.shows_thinking,
            context_management=NOTHING_CLEARED if fields.context_management else None,
            warnings=list(sorted_tools.left_out.values()),
        )
        requests = engine_requests(
            fields, prepared.request(writer.reply.id, fields.max_tokens), info, config=serving.config
        )
        choice = ChoiceParser(prepared.new_parser(), prepared.one_call)
        chunks = parse_stream(stream_events(serving.engine, requests), [choice])
        if fields.stream:
            direct = None if prepared.one_call else direct_events(serving.engine, requests, choice.feed)
            ping_s = serving.config.sse_ping_interval_s
            return EventStream(writer, chunks, ping_s, anthropic_response, direct=direct)
        return JsonReply(_written(writer, chunks), serving.config.sse_ping_interval_s, anthropic_response)

    @router.post(
        "/messages/count_tokens", **body_route("Count a prompt's tokens", CountFields, AnthropicTokenCount)
    )
    async def count(http: Request) -> AnthropicTokenCount:
        fields = await read_fields(CountFields, http)
        prepared, _ = await _prepare(serving, serving.generation_model(fields.model), fields)
        n_tokens = await n_prompt_tokens(serving, prepared)
        cleared = {"original_input_tokens": n_tokens} if fields.context_management else None
        return AnthropicTokenCount(input_tokens=n_tokens, context_management=cleared)

    return router


async def _prepare(serving: ServingContext, info: ModelInfo, fields: CountFields) -> _PreparedMessage:
    """Raises RequestError, BrokenTemplate."""
    fields.check(info.n_ctx)
    room = answer_room(fields.truncate, fields.max_tokens, info.n_ctx, allowed=serving.config.truncate)
    prepare = partial(_prepare_cut, serving, info, fields)
    return await prepare_to_fit(serving, info, room, prepare, itemgetter(0))


def _prepare_cut(
    serving: ServingContext, info: ModelInfo, fields: CountFields, n_cuts: int
) -> _PreparedMessage:
    """The same with the turns before the nth cut dropped. Blocks."""
    images = serving.request_images(info)
    sorted_tools = sort_tools(fields.tools or (), fields.messages)
    for reason in () if n_cuts else sorted_tools.left_out.values():
        log.warning("A tool is left out: %s", reason)
    messages = messages_of(fields.system, fields.messages, images)
    use = sorted_tools.use(fields.choice(), fields.parallel)
    thinking = ThinkingSettings(
        effort=_effort(info, fields, use),
        field="thinking" if fields.thinking else "output_config.effort",
        n_tokens=fields.thinking_budget,
    )
    chat = TemplateInput(messages=messages, images=images, continues=_continues(messages), n_cuts=n_cuts)
    grammar = fields.grammar_wanted()
    prepared = prepare_chat(info, chat, use, config=serving.config, thinking=thinking, grammar=grammar)
    return prepared, sorted_tools


def _effort(info: ModelInfo, fields: CountFields, use: ToolUse) -> str | None:
    """The effort for the template. Clients send one to any model, as advice.

    A model whose thinking is not parsed gets no effort, so that no thinking gets into the answer.
    """
    is_parsed = dialect_of(template_source(info, tools=bool(use.tools))).thinking is not None
    return fields.effort if is_parsed or fields.effort in OFF else None


def _continues(messages: list[dict[str, Any]]) -> bool:
    """Whether the answer continues the last message. Raises RequestError."""
    last = messages[-1] if messages else {"role": "user"}
    if last["role"] == "assistant" and last.get("tool_calls"):
        raise RequestError("The last message calls tools: send their results after it", "messages")
    return bool(last["role"] == "assistant")


async def _written(writer: MessageWriter, chunks: ParsedChunks) -> bytes:
    """The message as one JSON text."""
    async for index, item in chunks:
        writer.event(index, item)
    writer.closing()
    return writer.reply.model_dump_json().encode()
