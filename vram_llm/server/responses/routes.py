"""POST, GET and DELETE /v1/responses."""

import asyncio
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.errors import RequestError
from vram_llm.server.document import generation_route
from vram_llm.server.errors import NoSuchResponse, PreviousNotFound, UnknownRoute
from vram_llm.server.generation import news, sequences
from vram_llm.server.json_reply import JsonReply
from vram_llm.server.replies import ErrorReply, Tally
from vram_llm.server.responses.fields import ResponseFields
from vram_llm.server.responses.items import messages_of
from vram_llm.server.responses.resource import Deleted, ResponseObject, begun
from vram_llm.server.responses.store import Kept, ResponseStore
from vram_llm.server.responses.writer import ResponseWriter
from vram_llm.server.schemas import parse
from vram_llm.server.served import Served
from vram_llm.server.spoken import Answer, SpokenNews, spoken
from vram_llm.server.sse import EventStream
from vram_llm.server.turn import make_turn


def responses_router(served: Served) -> APIRouter:
    """Routes that answer with items, and remember what they answered."""
    router = APIRouter(tags=["responses"])
    store = ResponseStore()

    @router.post("/responses", **generation_route("Answer with items", ResponseFields, ResponseObject))
    async def respond(http: Request) -> Response:
        fields = parse(ResponseFields, await http.body())
        fields.check()
        info = served.writing_model(fields.model)
        before = _before(store, fields.previous_response_id)
        pictures = served.pictures(info, before.images if before else {})
        new = await asyncio.to_thread(messages_of, fields.input, pictures)
        chat = [*(before.messages if before else ()), *new]
        orders = [{"role": "system", "content": fields.instructions}] if fields.instructions else []
        reasoning = fields.reasoning
        turn = await asyncio.to_thread(
            make_turn,
            info,
            [*orders, *chat],
            fields.use(),
            pictures,
            config=served.config,
            effort=reasoning.effort if reasoning else None,
            names=fields.chat_template_kwargs,
            grammar=fields.grammar_wanted(),
            reasoning_budget=served.config.reasoning_budget,
        )
        response = begun(fields, f"resp_{uuid4().hex}", int(served.clock()), info.name)
        requests = sequences(
            fields,
            [turn.prompt],
            info,
            reply_id=response.id,
            add_bos=turn.add_bos,
            max_tokens=fields.max_output_tokens,
            marks=turn.marks,
            grammar=turn.grammar,
            images=turn.images,
            reasoning_budget=turn.reasoning_budget,
        )

        def on_end(response: ResponseObject, answer: Answer) -> None:
            if response.store:
                store.keep(response, [*chat, _message(answer)], pictures.kept)

        writer = ResponseWriter(response, Tally(1), served.clock, on_end)
        said = spoken(news(served.engine, requests), [turn.new_parser()], one_call=turn.one_call)
        if fields.stream:
            return EventStream(writer, said, served.config.sse_ping_interval_s)
        return JsonReply(_written(writer, said), served.config.sse_ping_interval_s)

    @router.post("/responses/{_path:path}", include_in_schema=False)
    async def nothing_there(http: Request) -> Response:
        raise UnknownRoute(
            f"There is nothing at POST {http.url.path}; responses are made at POST /v1/responses"
        )

    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorReply}}

    @router.get("/responses/{response_id}", summary="A response that was kept", responses=missing)
    async def one_response(response_id: str) -> ResponseObject:
        kept = store.find(response_id)
        if kept is None:
            raise _no_such(response_id)
        return kept.response

    @router.delete("/responses/{response_id}", summary="Forget a response", responses=missing)
    async def forget(response_id: str) -> Deleted:
        if not store.delete(response_id):
            raise _no_such(response_id)
        return Deleted(id=response_id)

    return router


async def _written(writer: ResponseWriter, said: SpokenNews) -> bytes:
    """The whole response, without a stream."""
    async for index, item in said:
        writer.event(index, item)
    writer.closing()
    return writer.response.model_dump_json().encode()


def _before(store: ResponseStore, response_id: str | None) -> Kept | None:
    if response_id is None:
        return None
    kept = store.find(response_id)
    if kept is None:
        raise PreviousNotFound(
            f"Previous response with id '{response_id}' not found; it was not stored, or is forgotten",
            "previous_response_id",
        )
    return kept


def _no_such(response_id: str) -> RequestError:
    return NoSuchResponse(f"Response with id '{response_id}' not found", "response_id")


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in answer.calls
        ]
    return message
