"""POST /v1/completions."""

from collections.abc import Sequence
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.errors import RequestError
from vram_llm.server.document import generation_route
from vram_llm.server.errors import NotSupported
from vram_llm.server.generation import Outcome, collect, news, sequences, while_connected
from vram_llm.server.replies import Completion, CompletionChoice, ReplyHead, Tally
from vram_llm.server.schemas import CompletionRequest, parse
from vram_llm.server.served import Served, fingerprint
from vram_llm.server.sse import Chunks, EventStream

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionChunks(Chunks):
    """text_completion objects."""

    object = "text_completion"
    before_text = b'"text":'
    after_text = b""
    nothing = b'"text":""'

    def __init__(
        self, head: ReplyHead, n_choices: int, tally: Tally, *, include_usage: bool, echoes: Sequence[str]
    ) -> None:
        """`echoes` holds what each choice begins with; empty, none has such a beginning."""
        super().__init__(head, n_choices, tally, include_usage=include_usage)
        self._echoes = echoes

    def opening(self) -> bytes:
        return b"".join(self.text(index, echo) for index, echo in enumerate(self._echoes) if echo)


def completions_router(served: Served) -> APIRouter:
    """Routes that continue prompts as they stand."""
    router = APIRouter(tags=["completions"])

    @router.post("/completions", **generation_route("Continue a prompt", CompletionRequest, Completion))
    async def complete(http: Request) -> Response:
        fields = parse(CompletionRequest, await http.body())
        info = served.model(fields.model)
        prompts = _prompts(fields.prompt, info.n_vocab)
        echoes = _echoes(fields, prompts)
        head = ReplyHead(f"cmpl-{uuid4().hex}", int(served.clock()), info.name, fingerprint(info))
        requests = sequences(
            fields,
            prompts,
            info,
            reply_id=head.id,
            add_bos=True,
            max_tokens=fields.max_tokens or DEFAULT_MAX_TOKENS,
        )
        events, tally = news(served.engine, requests), Tally(fields.n or 1)
        if fields.stream:
            chunks = CompletionChunks(
                head, len(requests), tally, include_usage=fields.include_usage, echoes=echoes
            )
            return EventStream(chunks, events)
        outcomes = await while_connected(http.receive, collect(events, len(requests), tally))
        if outcomes is None:
            return Response(status_code=499)  # nobody reads it
        reply = _reply(head, outcomes, echoes, tally)
        return Response(reply.model_dump_json(), media_type="application/json")

    return router


def _prompts(prompt: object, n_vocab: int) -> list[str | tuple[int, ...]]:
    """The four shapes of `prompt` as one: a list of texts or token ids. Raises RequestError."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(text, str) for text in prompt):
            return list(prompt)
        rows = prompt if isinstance(prompt[0], list) else [prompt]
        if all(_are_tokens(row) for row in rows):
            for row in rows:
                _check_vocabulary(row, n_vocab)
            return [tuple(row) for row in rows]
    raise RequestError(
        "'prompt' must be a string, a list of strings, a list of token ids or a list of such lists, "
        "none of the lists empty",
        "prompt",
    )


def _are_tokens(row: object) -> bool:
    return isinstance(row, list) and bool(row) and all(type(token) is int for token in row)


def _check_vocabulary(tokens: list[int], n_vocab: int) -> None:
    for token in tokens:
        if not 0 <= token < n_vocab:
            raise RequestError(
                f"Token {token} in 'prompt' is not in the vocabulary: the last is {n_vocab - 1}", "prompt"
            )


def _echoes(fields: CompletionRequest, prompts: list[str | tuple[int, ...]]) -> list[str]:
    """What to put before each choice. Raises NotSupported, and RequestError for a `best_of`."""
    n = fields.n or 1
    if fields.best_of is not None and fields.best_of != n:
        raise NotSupported(f"'best_of' other than n ({n}) is not supported; leave it out", "best_of")
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if not fields.echo:
        return []
    if len(texts) < len(prompts):
        raise NotSupported("'echo' of a prompt in token ids is not supported; send text", "echo")
    return [text for text in texts for _ in range(n)]


def _reply(head: ReplyHead, outcomes: list[Outcome], echoes: list[str], tally: Tally) -> Completion:
    return Completion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[
            CompletionChoice(
                index=index,
                text=(echoes[index] if echoes else "") + outcome.text,
                finish_reason=outcome.finish_reason,
            )
            for index, outcome in enumerate(outcomes)
        ],
        usage=tally.usage(),
    )
