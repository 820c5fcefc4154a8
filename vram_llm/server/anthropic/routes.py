"""POST /v1/messages and /v1/messages/count_tokens."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.engine.info import ModelInfo
from vram_llm.server.anthropic.blocks import messages_of
from vram_llm.server.anthropic.errors import anthropic_response
from vram_llm.server.anthropic.fields import CountFields, MessagesFields
from vram_llm.server.anthropic.writer import MessageReply, MessageWriter, TokenCount
from vram_llm.server.document import body_route, generation_route
from vram_llm.server.generation import news, sequences
from vram_llm.server.json_reply import JsonReply
from vram_llm.server.replies import Tally
from vram_llm.server.schemas import parse
from vram_llm.server.served import Served
from vram_llm.server.spoken import SpokenNews, spoken
from vram_llm.server.sse import EventStream
from vram_llm.server.turn import Turn, make_turn


def anthropic_router(served: Served) -> APIRouter:
    """Routes for Anthropic's clients."""
    router = APIRouter(tags=["messages"])

    @router.post("/messages", **generation_route("Answer messages", MessagesFields, MessageReply))
    async def answer(http: Request) -> Response:
        fields = parse(MessagesFields, await http.body())
        info = served.writing_model(fields.model)
        turn = await asyncio.to_thread(_turn, served, info, fields)
        tally = Tally(1)
        writer = MessageWriter(info.name, tally)
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
        turn = await asyncio.to_thread(_turn, served, served.writing_model(fields.model), fields)
        tokens = await served.engine.tokenize(
            turn.prompt, add_special=turn.add_bos, parse_special=True, images=turn.images
        )
        return TokenCount(input_tokens=len(tokens))

    return router


def _turn(served: Served, info: ModelInfo, fields: CountFields) -> Turn:
    pictures = served.pictures(info)
    return make_turn(
        info,
        messages_of(fields, pictures),
        fields.use(),
        pictures,
        config=served.config,
        effort=fields.effort,
        grammar=fields.grammar_wanted(),
        reasoning_budget=served.config.reasoning_budget,
    )


async def _written(writer: MessageWriter, said: SpokenNews) -> bytes:
    """The whole message, without a stream."""
    async for index, item in said:
        writer.event(index, item)
    writer.closing()
    return writer.reply.model_dump_json().encode()
