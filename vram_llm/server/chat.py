"""POST /v1/chat/completions."""

import asyncio
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.engine.info import ModelInfo
from vram_llm.engine.request import TokenEvent
from vram_llm.server.document import generation_route
from vram_llm.server.generation import Outcome, collect, news, sequences, while_connected
from vram_llm.server.logprobs import chat_logprobs
from vram_llm.server.messages import template_messages
from vram_llm.server.replies import AssistantMessage, ChatChoice, ChatCompletion, ReplyHead, Tally
from vram_llm.server.sampling_fields import one_of
from vram_llm.server.schemas import ChatCompletionRequest, Message, parse
from vram_llm.server.served import Served, chat_template, fingerprint
from vram_llm.server.sse import Chunks, EventStream


class ChatChunks(Chunks):
    """chat.completion.chunk objects."""

    object = "chat.completion.chunk"
    before_text = b'"delta":{"content":'
    after_text = b"}"
    nothing = b'"delta":{}'

    def opening(self) -> bytes:
        role = b'"delta":{"role":"assistant","content":"","refusal":null}'
        return b"".join(self._choice(index, role) for index in range(len(self._text_begins)))

    def likely_text(self, index: int, event: TokenEvent) -> bytes:
        return self._likely(index, event.text, chat_logprobs(event.logprobs))


def chat_router(served: Served) -> APIRouter:
    """Routes that answer chats with the model's own template."""
    router = APIRouter(tags=["chat"])

    @router.post(
        "/chat/completions", **generation_route("Answer a chat", ChatCompletionRequest, ChatCompletion)
    )
    async def chat(http: Request) -> Response:
        fields = parse(ChatCompletionRequest, await http.body())
        info = served.model(fields.model)
        prompt = await asyncio.to_thread(_prompt, info, fields.messages)
        head = ReplyHead(f"chatcmpl-{uuid4().hex}", int(served.clock()), info.name, fingerprint(info))
        requests = sequences(
            fields,
            [prompt],
            info,
            reply_id=head.id,
            add_bos=not (info.bos_token and prompt.startswith(info.bos_token)),
            max_tokens=one_of(fields, "max_completion_tokens", "max_tokens"),
            logprobs=fields.n_logprobs(),
        )
        events, tally = news(served.engine, requests), Tally(len(requests))
        if fields.stream:
            chunks = ChatChunks(head, len(requests), tally, include_usage=fields.include_usage)
            return EventStream(chunks, events)
        outcomes = await while_connected(http.receive, collect(events, len(requests), tally))
        if outcomes is None:
            return Response(status_code=499)  # nobody reads it
        return Response(
            _reply(head, outcomes, tally, told=bool(fields.logprobs)).model_dump_json(),
            media_type="application/json",
        )

    return router


def _prompt(info: ModelInfo, messages: list[Message]) -> str:
    template = chat_template(info.chat_template, info.bos_token, info.eos_token)
    return template.render(template_messages(messages))


def _reply(head: ReplyHead, outcomes: list[Outcome], tally: Tally, *, told: bool) -> ChatCompletion:
    return ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[
            ChatChoice(
                index=index,
                message=AssistantMessage(content=outcome.text),
                logprobs=chat_logprobs(outcome.logprobs) if told else None,
                finish_reason=outcome.finish_reason,
            )
            for index, outcome in enumerate(outcomes)
        ],
        usage=tally.usage(),
    )
