"""POST /v1/chat/completions."""

from functools import partial
from operator import attrgetter
from secrets import token_hex
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.chat.dialect import dialect_of
from vram_llm.engine.model_info import ModelInfo
from vram_llm.server.chat_writer import ChatChunks, ChatForm
from vram_llm.server.direct_events import direct_events
from vram_llm.server.generation import engine_requests, stream_events
from vram_llm.server.inline_thinking import with_inline_thinking
from vram_llm.server.json_reply import JsonReply
from vram_llm.server.logit_bias import resolve_text_biases
from vram_llm.server.logprobs import chat_logprobs
from vram_llm.server.openapi import generation_route
from vram_llm.server.parsed_stream import (
    ChoiceParser,
    ParsedChunks,
    gather_choices,
    parse_stream,
)
from vram_llm.server.prepare_chat import PreparedChat, TemplateInput, prepare_chat
from vram_llm.server.read_body import read_fields
from vram_llm.server.replies import ChatChoice, ChatCompletion, ReplyHead, UsageCounter
from vram_llm.server.request_record import record_of_request
from vram_llm.server.routes import RequestRoute
from vram_llm.server.schemas import ChatCompletionRequest
from vram_llm.server.serving_context import ServingContext, fingerprint, template_source
from vram_llm.server.sse import EventStream, VerboseFirstChunk, with_timings
from vram_llm.server.template_messages import continued_message, template_messages
from vram_llm.server.timings import Clocks, clocks_of, timed, timings_of
from vram_llm.server.truncation import answer_room, prepare_to_fit
from vram_llm.server.verbose import verbose_object


def chat_router(serving: ServingContext) -> APIRouter:
    """Routes that answer chats with the model's own template."""
    router = APIRouter(tags=["chat"], route_class=RequestRoute)

    @router.post(
        "/chat/completions", **generation_route("Answer a chat", ChatCompletionRequest, ChatCompletion)
    )
    async def chat(http: Request) -> Response:
        fields = await read_fields(ChatCompletionRequest, http)
        info = serving.generation_model(fields.model)
        fields.logit_bias = await resolve_text_biases(fields.logit_bias, serving.engine)
        use, thinking = fields.use(), fields.thinking_wanted()
        form = ChatForm(bool(fields.functions), use.takes_text, thinking.where == "hidden")
        prepared = await prepare_chat_request(serving, info, fields)
        head = ReplyHead(f"chatcmpl-{token_hex(16)}", int(serving.clock()), info.name, fingerprint(info))
        base = prepared.request(head.id, fields.token_limit(serving.config.n_predict), fields.n_logprobs())
        requests = engine_requests(fields, base, info, config=serving.config)
        is_verbose = serving.config.verbose if fields.verbose is None else fields.verbose
        verbose = await verbose_object(serving.engine, base) if is_verbose else None
        choices = [ChoiceParser(prepared.new_parser(), prepared.one_call) for _ in requests]
        clocks = clocks_of(fields, len(requests))
        chunks = parse_stream(timed(stream_events(serving.engine, requests), clocks), choices)
        counter = UsageCounter(len(requests), record_of_request().dropped_messages)
        ping_s = serving.config.sse_ping_interval_s
        if fields.stream:
            chat_chunks = ChatChunks(head, len(requests), counter, form, include_usage=fields.include_usage)
            writer = with_timings(chat_chunks, clocks, fields, attrgetter("token"))
            ends_early = bool(clocks) or prepared.one_call
            return EventStream(
                writer if verbose is None else VerboseFirstChunk(writer, verbose),
                chunks,
                ping_s,
                direct=None if ends_early else direct_events(serving.engine, requests, choices[0].feed),
            )
        likelihoods = base.logprobs is not None
        work = _reply(head, chunks, counter, clocks, form, verbose, likelihoods=likelihoods)
        return JsonReply(work, ping_s)

    return router


async def prepare_chat_request(
    serving: ServingContext, info: ModelInfo, fields: ChatCompletionRequest
) -> PreparedChat:
    """Prepare the assistant's turn of a chat request. Raises RequestError, BrokenTemplate."""
    config = serving.config
    limit = fields.token_limit(config.n_predict)
    room = answer_room(fields.truncate, limit, info.n_ctx, allowed=config.truncate)
    return await prepare_to_fit(
        serving, info, room, partial(_prepare, serving, info, fields), lambda own: own
    )


def _prepare(
    serving: ServingContext, info: ModelInfo, fields: ChatCompletionRequest, n_cuts: int
) -> PreparedChat:
    """The same with the turns before the nth cut dropped. Blocks."""
    images, config = serving.request_images(info), serving.config
    thinking = fields.thinking_wanted(config.reasoning_format)
    variables = {} if fields.verbosity is None else {"verbosity": fields.verbosity}
    messages = template_messages(fields.messages, images)
    if continues := fields.continues():
        messages[-1] = continued_message(fields.messages[-1], messages[-1])
    use = fields.use()
    chat = TemplateInput(
        messages=messages,
        images=images,
        variables={**variables, **(fields.chat_template_kwargs or {})},
        continues=continues,
        add_generation_prompt=fields.add_generation_prompt is not False,
        n_cuts=n_cuts,
    )
    grammar = fields.grammar_wanted()
    prepared = prepare_chat(info, chat, use, config=config, thinking=thinking, grammar=grammar)
    if thinking.where != "inline":
        return prepared
    return with_inline_thinking(prepared, dialect_of(template_source(info, tools=bool(use.tools))).thinks)


async def _reply(
    head: ReplyHead,
    chunks: ParsedChunks,
    counter: UsageCounter,
    clocks: Clocks,
    form: ChatForm,
    verbose: dict[str, Any] | None,
    *,
    likelihoods: bool,
) -> bytes:
    answers = await gather_choices(chunks, counter)
    reply = ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[
            ChatChoice(
                index=index,
                message=form.message(answer),
                logprobs=chat_logprobs(answer.logprobs) if likelihoods else None,
                finish_reason=form.ending(answer.ending),
            )
            for index, answer in enumerate(answers)
        ],
        usage=counter.usage(),
        timings=clocks[0].timings() if clocks else timings_of(record_of_request()),
        verbose=verbose,
    )
    return reply.model_dump_json().encode()
