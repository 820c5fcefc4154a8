"""POST /v1/chat/completions."""

import asyncio
from operator import attrgetter
from typing import Any
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.chat.events import CallArguments, CallStart, Content, Event, Reasoning
from vram_llm.engine.info import ModelInfo
from vram_llm.server.document import generation_route
from vram_llm.server.generation import news, sequences
from vram_llm.server.json_reply import JsonReply
from vram_llm.server.logprobs import chat_logprobs
from vram_llm.server.messages import template_messages
from vram_llm.server.replies import (
    AssistantMessage,
    CalledFunction,
    ChatChoice,
    ChatCompletion,
    ReplyHead,
    Tally,
    ToolCall,
)
from vram_llm.server.sampling_fields import one_of
from vram_llm.server.schemas import ChatCompletionRequest, parse
from vram_llm.server.served import Served, fingerprint
from vram_llm.server.spoken import Answer, Spoken, SpokenNews, gather, spoken
from vram_llm.server.sse import Chunks, EventStream, informed
from vram_llm.server.timings import Clocks, clocks_of, timed
from vram_llm.server.tools import tool_use
from vram_llm.server.turn import Turn, make_turn

_encode = msgspec.json.encode


class ChatChunks(Chunks[Spoken]):
    """chat.completion.chunk objects."""

    object = "chat.completion.chunk"
    before_text = b'"delta":{"content":'
    after_text = b"}"
    nothing = b'"delta":{}'

    _is_open = False  # the roles are sent

    def _roles(self) -> bytes:
        self._is_open = True
        role = b'"delta":{"role":"assistant","content":"","refusal":null}'
        return b"".join(self._choice(index, role) for index in range(len(self._text_begins)))

    def event(self, index: int, item: Spoken) -> bytes:
        if item.token.prompt_done is not None:
            return b""
        events, chunk = item.events, b"" if self._is_open else self._roles()
        if item.token.logprobs:  # with all the content that came of these tokens, even none
            text = "".join(event.text for event in events if isinstance(event, Content))
            chunk += self._likely(index, text, chat_logprobs(item.token.logprobs))
            events = [event for event in events if not isinstance(event, Content)]
        chunk += b"".join(self._piece(index, event) for event in events)
        if item.ending is not None:
            self._tally.add(index, item.token, item.reasoning_tokens)
            chunk += self._choice(index, self.nothing, _encode(item.ending))
        return chunk

    def _piece(self, index: int, event: Event) -> bytes:
        match event:
            case Content(text):
                return self.text(index, text)
            case Reasoning(text):
                return self._choice(index, b'"delta":{"reasoning_content":%b}' % _encode(text))
            case CallStart(call, call_id, name):
                function = {"name": name, "arguments": ""}
                return self._call(
                    index, {"index": call, "id": call_id, "type": "function", "function": function}
                )
            case CallArguments(call, text):
                return self._call(index, {"index": call, "function": {"arguments": text}})
        return b""

    def _call(self, index: int, delta: dict[str, Any]) -> bytes:
        return self._choice(index, b'"delta":{"tool_calls":[%b]}' % _encode(delta))


def chat_router(served: Served) -> APIRouter:
    """Routes that answer chats with the model's own template."""
    router = APIRouter(tags=["chat"])

    @router.post(
        "/chat/completions", **generation_route("Answer a chat", ChatCompletionRequest, ChatCompletion)
    )
    async def chat(http: Request) -> Response:
        fields = parse(ChatCompletionRequest, await http.body())
        info = served.writing_model(fields.model)
        turn = await asyncio.to_thread(turn_of, served, info, fields)
        head = ReplyHead(f"chatcmpl-{uuid4().hex}", int(served.clock()), info.name, fingerprint(info))
        requests = sequences(
            fields,
            [turn.prompt],
            info,
            reply_id=head.id,
            add_bos=turn.add_bos,
            max_tokens=one_of(fields, "max_completion_tokens", "max_tokens"),
            marks=turn.marks,
            grammar=turn.grammar,
            logprobs=fields.n_logprobs(),
            images=turn.images,
            reasoning_budget=turn.reasoning_budget,
        )
        parsers = [turn.new_parser() for _ in requests]
        clocks = clocks_of(fields, len(requests))
        said = spoken(timed(news(served.engine, requests), clocks), parsers, one_call=turn.one_call)
        tally, ping_s = Tally(len(requests)), served.config.sse_ping_interval_s
        if fields.stream:
            chunks = ChatChunks(head, len(requests), tally, include_usage=fields.include_usage)
            return EventStream(informed(chunks, clocks, fields, attrgetter("token")), said, ping_s)
        work = _reply(head, said, len(requests), tally, clocks, likelihoods=bool(fields.logprobs))
        return JsonReply(work, ping_s)

    return router


def turn_of(served: Served, info: ModelInfo, fields: ChatCompletionRequest) -> Turn:
    """The turn a request asks for. Blocks. Raises RequestError, BrokenTemplate."""
    pictures = served.pictures(info)
    return make_turn(
        info,
        template_messages(fields.messages, pictures),
        tool_use(fields.tools, fields.tool_choice, fields.parallel_tool_calls),
        pictures,
        config=served.config,
        effort=fields.reasoning_effort or (fields.reasoning.effort if fields.reasoning else None),
        names=fields.chat_template_kwargs,
        grammar=fields.grammar_wanted(),
        reasoning_budget=served.config.reasoning_budget,
    )


async def _reply(
    head: ReplyHead, said: SpokenNews, n: int, tally: Tally, clocks: Clocks, *, likelihoods: bool
) -> bytes:
    answers = await gather(said, n, tally)
    reply = ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[
            ChatChoice(
                index=index,
                message=_message(answer),
                logprobs=chat_logprobs(answer.logprobs) if likelihoods else None,
                finish_reason=answer.ending,
            )
            for index, answer in enumerate(answers)
        ],
        usage=tally.usage(),
        timings=clocks[0].timings() if clocks else None,
    )
    return reply.model_dump_json().encode()


def _message(answer: Answer) -> AssistantMessage:
    calls = [
        ToolCall(id=call.id, function=CalledFunction(name=call.name, arguments=call.arguments))
        for call in answer.calls
    ]
    return AssistantMessage(
        content=answer.content if answer.content or not calls else None,
        reasoning_content=answer.reasoning or None,
        tool_calls=calls or None,
    )
