"""POST, GET and DELETE /v1/responses."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.chat.efforts import EFFORTS
from vram_llm.engine.model_info import ModelInfo
from vram_llm.errors import RequestError
from vram_llm.server.direct_events import direct_events
from vram_llm.server.errors import NoSuchResponse, PreviousNotFound, UnknownRoute
from vram_llm.server.generation import engine_requests, stream_events
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.json_reply import JsonReply
from vram_llm.server.openapi import body_route, generation_route, refusals
from vram_llm.server.parsed_stream import ChoiceParser, ParsedChoice, ParsedChunks, parse_stream
from vram_llm.server.prepare_chat import PreparedChat, TemplateInput, prepare_chat
from vram_llm.server.read_body import read_fields
from vram_llm.server.replies import UsageCounter
from vram_llm.server.request_record import record_of_request
from vram_llm.server.responses.fields import ENCODED_THINKING, ResponseFields
from vram_llm.server.responses.items import messages_of
from vram_llm.server.responses.response_object import (
    DeletedResponse,
    InputTokens,
    ResponseObject,
    new_response,
)
from vram_llm.server.responses.store import ResponseStore, ResponseStores, StoredResponse
from vram_llm.server.responses.timed_response import TimedResponse
from vram_llm.server.responses.tools import ClientToolName, ResponseTool, distinct, sort_tools, tools_in
from vram_llm.server.responses.writer import ResponseWriter
from vram_llm.server.serving_context import ServingContext
from vram_llm.server.sse import EventStream
from vram_llm.server.thinking_fields import ThinkingSettings
from vram_llm.server.timings import clocks_of, timed
from vram_llm.server.truncation import answer_room, n_prompt_tokens, prepare_to_fit

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _PreparedResponse:
    """A request, prepared. `brought` are the tools that items of the input declare."""

    prepared: PreparedChat
    chat: list[dict[str, Any]]
    images: RequestImages
    client_names: Mapping[str, ClientToolName]
    tools: list[ResponseTool]
    brought: list[ResponseTool]
    warnings: list[str]


def responses_router(serving: ServingContext) -> APIRouter:
    """Routes that answer with items, and store their answers."""
    router, stores = APIRouter(tags=["responses"]), ResponseStores()
    _add_generation(router, serving, stores)
    _add_stored_responses(router, stores)
    return router


def _add_generation(router: APIRouter, serving: ServingContext, stores: ResponseStores) -> None:
    """The routes that read an input."""

    @router.post("/responses", **generation_route("Answer with items", ResponseFields, ResponseObject))
    async def respond(http: Request) -> Response:
        fields = await read_fields(ResponseFields, http)
        info = serving.generation_model(fields.model)
        store = stores.of_request()
        turn = await _prepare_turn(serving, info, fields, store)
        prepared = turn.prepared
        response_id = f"resp_{uuid4().hex}"
        base = prepared.request(
            response_id, fields.token_limit(serving.config.n_predict), fields.n_logprobs()
        )
        requests = engine_requests(fields, base, info, config=serving.config)
        response = new_response(
            fields,
            turn.tools,
            requests[0].sampling,
            id=response_id,
            created_at=int(serving.clock()),
            model=info.name,
            truncation="disabled" if record_of_request().dropped_messages is None else "auto",
            warnings=turn.warnings or None,
        )

        def on_end(response: ResponseObject, answer: ParsedChoice) -> None:
            if response.store:
                store.keep(response, [*turn.chat, _message(answer)], turn.images.kept, turn.brought)

        writer = ResponseWriter(
            response,
            UsageCounter(1, record_of_request().dropped_messages),
            serving.clock,
            on_end,
            turn.client_names,
            sends_encoded_thinking=fields.includes(ENCODED_THINKING),
            sends_summary=fields.wants_summary,
        )
        clocks = clocks_of(fields, 1)
        observed = timed(stream_events(serving.engine, requests), clocks)
        choice = ChoiceParser(prepared.new_parser(), prepared.one_call)
        chunks = parse_stream(observed, [choice])
        if fields.stream and clocks:
            wanted = {"progress": bool(fields.return_progress), "timings": bool(fields.timings_per_token)}
            timed_writer = TimedResponse(writer, clocks[0], **wanted)
            return EventStream(timed_writer, chunks, serving.config.sse_ping_interval_s)
        if fields.stream:
            direct = None if prepared.one_call else direct_events(serving.engine, requests, choice.feed)
            return EventStream(writer, chunks, serving.config.sse_ping_interval_s, direct=direct)
        return JsonReply(_written(writer, chunks), serving.config.sse_ping_interval_s)

    @router.post(
        "/responses/input_tokens", **body_route("Count an input's tokens", ResponseFields, InputTokens)
    )
    async def count(http: Request) -> InputTokens:
        fields = await read_fields(ResponseFields, http)
        info = serving.generation_model(fields.model)
        prepared = (await _prepare_turn(serving, info, fields, stores.of_request())).prepared
        return InputTokens(input_tokens=await n_prompt_tokens(serving, prepared))


def _add_stored_responses(router: APIRouter, stores: ResponseStores) -> None:
    """The routes to responses by their ids."""

    @router.post("/responses/{_path:path}", include_in_schema=False)
    async def nothing_there(http: Request) -> Response:
        raise UnknownRoute(
            f"There is nothing at POST {http.url.path}; responses are made at POST /v1/responses"
        )

    missing = refusals(404)

    @router.get("/responses/{response_id}", summary="A stored response", responses=missing)
    async def one_response(response_id: str) -> ResponseObject:
        kept = stores.of_request().find(response_id)
        if kept is None:
            raise _no_such(response_id)
        return kept.response

    @router.delete("/responses/{response_id}", summary="Delete a response", responses=missing)
    async def forget(response_id: str) -> DeletedResponse:
        if not stores.of_request().delete(response_id):
            raise _no_such(response_id)
        return DeletedResponse(id=response_id)


async def _prepare_turn(
    serving: ServingContext, info: ModelInfo, fields: ResponseFields, store: ResponseStore
) -> _PreparedResponse:
    """Prepare a request. Raises RequestError, BrokenTemplate."""
    fields.check(info.n_ctx)
    previous = _previous(store, fields.previous_response_id)
    allowed = fields.truncation == "auto" or serving.config.truncate
    room = answer_room(
        fields.truncates, fields.token_limit(serving.config.n_predict), info.n_ctx, allowed=allowed
    )
    prepare = partial(_prepare, serving, info, fields, previous, store)
    return await prepare_to_fit(serving, info, room, prepare, attrgetter("prepared"))


def _prepare(
    serving: ServingContext,
    info: ModelInfo,
    fields: ResponseFields,
    previous: StoredResponse | None,
    store: ResponseStore,
    n_cuts: int,
) -> _PreparedResponse:
    """Prepare a request, with the turns before the nth cut dropped. Blocks.

    Raises RequestError, BrokenTemplate.
    """
    images = serving.request_images(info, previous.images if previous else {})
    new, unread = messages_of(fields.input, images, store.find_item)
    chat = [*(previous.messages if previous else ()), *new]
    instructions = [{"role": "system", "content": fields.instructions}] if fields.instructions else []
    brought = distinct([*(previous.tools if previous else ()), *tools_in(fields.input)])
    tools = [*(fields.tools or ()), *brought]
    n_own = len(fields.tools or ())
    sorted_tools = sort_tools(tools, lambda i: f"tools[{i}]" if i < n_own else f"input.tools[{i - n_own}]")
    warnings = [*sorted_tools.left_out.values(), *unread]
    for warning in () if n_cuts else warnings:
        log.warning("Left out of a request: %s", warning)
    prepared = prepare_chat(
        info,
        TemplateInput(messages=[*instructions, *chat], images=images, variables=fields.names, n_cuts=n_cuts),
        sorted_tools.use(fields.tool_choice, fields.parallel_tool_calls),
        config=serving.config,
        thinking=ThinkingSettings(_effort(fields), "reasoning.effort"),
        grammar=fields.grammar_wanted(),
    )
    offered = [tool for tool in tools if tool.type not in sorted_tools.left_out]
    return _PreparedResponse(prepared, chat, images, sorted_tools.client_names, offered, brought, warnings)


def _effort(fields: ResponseFields) -> str | None:
    """The effort of the last update among the items, else the request's."""
    own = fields.reasoning.effort if fields.reasoning else None
    for i, item in enumerate(fields.input if isinstance(fields.input, list) else ()):
        if not isinstance(item, dict) or item.get("type") != "configuration_update":
            continue
        reasoning = item.get("reasoning")
        effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
        if effort is not None and effort not in EFFORTS:
            at = f"input[{i}].reasoning.effort"
            raise RequestError(f"'{at}' must be one of {', '.join(EFFORTS)}", at)
        own = effort or own
    return own


async def _written(writer: ResponseWriter, chunks: ParsedChunks) -> bytes:
    """The response as one JSON text."""
    async for index, item in chunks:
        writer.event(index, item)
    writer.closing()
    return writer.response.model_dump_json().encode()


def _previous(store: ResponseStore, response_id: str | None) -> StoredResponse | None:
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


def _message(answer: ParsedChoice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in answer.calls
        ]
    return message
