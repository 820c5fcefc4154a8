"""POST /v1/completions."""

from collections.abc import Sequence
from math import inf
from secrets import token_hex

from fastapi import APIRouter, Request
from fastapi.responses import Response

from vram_llm.engine.request import Request as EngineRequest
from vram_llm.engine.request import TokenEvent
from vram_llm.server.direct_events import direct_events
from vram_llm.server.errors import NotSupported
from vram_llm.server.generation import CompletedChoice, collect_choices, engine_requests, stream_events
from vram_llm.server.json_reply import JsonReply
from vram_llm.server.logit_bias import resolve_text_biases
from vram_llm.server.logprobs import completion_logprobs, n_chars, prompt_offset, prompt_text
from vram_llm.server.openapi import generation_route
from vram_llm.server.parse_prompts import Prompts, parse_prompts
from vram_llm.server.prompt_limits import check_ids_fit
from vram_llm.server.read_body import read_fields
from vram_llm.server.replies import Completion, CompletionChoice, ReplyHead, UsageCounter
from vram_llm.server.request_record import record_of_request
from vram_llm.server.routes import RequestRoute
from vram_llm.server.schemas import CompletionRequest
from vram_llm.server.serving_context import ServingContext, fingerprint
from vram_llm.server.sse import Chunks, EventStream, VerboseFirstChunk, with_timings
from vram_llm.server.timings import Clocks, clocks_of, timed, timings_of
from vram_llm.server.verbose import verbose_object

DEFAULT_MAX_TOKENS = 16  # OpenAI's
Echo = str | None  # text in front of a choice; None: the prompt's text as the engine reports it


class CompletionChunks(Chunks[TokenEvent]):
    """text_completion objects."""

    object = "text_completion"
    before_text = b'"text":'
    after_text = b""
    nothing = b'"text":""'

    def __init__(
        self,
        head: ReplyHead,
        n_choices: int,
        counter: UsageCounter,
        *,
        include_usage: bool,
        echoes: Sequence[Echo],
        n_top: int,
    ) -> None:
        """`echoes` holds the text in front of each choice; it is empty if nothing is echoed."""
        super().__init__(head, n_choices, counter, include_usage=include_usage)
        self._echoes = echoes
        self._n_top = n_top
        self._text_offsets = [len(echo or "") for echo in echoes] or [0] * n_choices

    _is_open = False  # whether the echoes were sent

    def _echo(self) -> bytes:
        self._is_open = True
        return b"".join(self.text(index, echo) for index, echo in enumerate(self._echoes) if echo)

    def event(self, index: int, item: TokenEvent) -> bytes:
        if item.prompt_done is not None:
            return b""
        begun = b"" if self._is_open else self._echo()
        return begun + self._piece(index, item)

    def _piece(self, index: int, item: TokenEvent) -> bytes:
        if item.logprobs or item.prompt_logprobs:
            chunk = self._likely_text(index, item)
        else:
            chunk = self.text(index, item.text) if item.text else b""
        if item.finish_reason is not None:
            self._tally.add(index, item)
            chunk += self._finish(index, f'"{item.finish_reason}"'.encode())
        return chunk

    def _likely_text(self, index: int, event: TokenEvent) -> bytes:
        chunk = b""
        if event.prompt_logprobs:  # they come in one event, before the answer
            echo = self._echoes[index]
            text = "" if echo is not None else prompt_text(event.prompt_logprobs)
            offset = prompt_offset(echo, event.prompt_logprobs)
            chunk = self._likely(index, text, completion_logprobs(event.prompt_logprobs, self._n_top, offset))
            self._text_offsets[index] = len(text if echo is None else echo)
        logprobs = completion_logprobs(event.logprobs, self._n_top, self._text_offsets[index])
        self._text_offsets[index] += sum(n_chars(likelihood) for likelihood in event.logprobs)
        return chunk + self._likely(index, event.text, logprobs) if event.logprobs else chunk


def completions_router(serving: ServingContext) -> APIRouter:
    """The route that continues a prompt without a chat template."""
    router = APIRouter(tags=["completions"], route_class=RequestRoute)

    @router.post("/completions", **generation_route("Continue a prompt", CompletionRequest, Completion))
    async def complete(http: Request) -> Response:
        fields = await read_fields(CompletionRequest, http)
        info = serving.generation_model(fields.model)
        fields.logit_bias = await resolve_text_biases(fields.logit_bias, serving.engine)
        check_ids_fit(info, fields.prompt)
        prompts = parse_prompts(fields.prompt, info.n_vocab, "prompt")
        n_top, best_of = fields.n_logprobs(), fields.n_of()
        echoes = _echoes(fields, prompts, n_top)
        head = ReplyHead(f"cmpl-{token_hex(16)}", int(serving.clock()), info.name, fingerprint(info))
        default = serving.config.n_predict
        base = EngineRequest(
            id=head.id,
            prompt=prompts[0],
            max_tokens=fields.token_limit(DEFAULT_MAX_TOKENS if default is None else default),
            logprobs=0 if best_of is not None and n_top is None else n_top,
            grammar=fields.grammar_wanted(),
            prompt_logprobs=n_top if fields.echo else None,
            suffix=fields.suffix or None,
        )
        requests = engine_requests(fields, base, info, prompts, best_of, config=serving.config)
        verbose = await verbose_object(serving.engine, requests[0]) if fields.verbose else None
        clocks, counter = clocks_of(fields, len(requests)), UsageCounter(best_of or fields.n_choices)
        events, ping_s = (
            timed(stream_events(serving.engine, requests), clocks),
            serving.config.sse_ping_interval_s,
        )
        if fields.stream:
            chunks = CompletionChunks(
                head,
                len(requests),
                counter,
                include_usage=fields.include_usage,
                echoes=echoes,
                n_top=n_top or 0,
            )
            writer = with_timings(chunks, clocks, fields, lambda event: event)
            return EventStream(
                writer if verbose is None else VerboseFirstChunk(writer, verbose),
                events,
                ping_s,
                direct=None if clocks else direct_events(serving.engine, requests, lambda event: event),
            )

        async def reply() -> bytes:
            outcomes = await collect_choices(events, len(requests), counter)
            if best_of is not None:
                outcomes = best(outcomes, best_of, fields.n_choices)
            whole = _reply(head, outcomes, echoes, n_top, counter, clocks)
            whole.verbose = verbose
            return whole.model_dump_json().encode()

        return JsonReply(reply(), ping_s)

    return router


def best(outcomes: list[CompletedChoice], best_of: int, n: int) -> list[CompletedChoice]:
    """The `n` choices of each prompt with the highest mean logprob, out of its `best_of`."""

    def likelihood(outcome: CompletedChoice) -> float:
        logprobs = [token.chosen.logprob or 0.0 for token in outcome.logprobs]
        return sum(logprobs) / len(logprobs) if logprobs else -inf  # an answer without tokens has no logprobs

    groups = (outcomes[i : i + best_of] for i in range(0, len(outcomes), best_of))
    return [outcome for group in groups for outcome in sorted(group, key=likelihood, reverse=True)[:n]]


def _echoes(fields: CompletionRequest, prompts: Prompts, n_top: int | None) -> list[Echo]:
    """The text in front of each choice. Raises NotSupported."""
    n = fields.n_choices
    if not fields.echo:
        return []
    if fields.suffix:
        raise NotSupported("'echo' together with 'suffix' is not supported; leave one out", "echo")
    texts = [prompt if isinstance(prompt, str) else None for prompt in prompts]
    if None in texts and n_top is None:
        raise NotSupported(
            "'echo' of a prompt in token ids is supported with 'logprobs' only; send text, or logprobs of 0",
            "echo",
        )
    return [text for text in texts for _ in range(n)]


def _reply(
    head: ReplyHead,
    outcomes: list[CompletedChoice],
    echoes: list[Echo],
    n_top: int | None,
    counter: UsageCounter,
    clocks: Clocks,
) -> Completion:
    return Completion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[
            _choice(index, outcome, echoes[index] if echoes else "", n_top)
            for index, outcome in enumerate(outcomes)
        ],
        usage=counter.usage(),
        timings=clocks[0].timings() if clocks else timings_of(record_of_request()),
    )


def _choice(index: int, outcome: CompletedChoice, echo: Echo, n_top: int | None) -> CompletionChoice:
    text = prompt_text(outcome.prompt_logprobs) if echo is None else echo
    logprobs = None
    if n_top is not None:
        likelihoods = (*outcome.prompt_logprobs, *outcome.logprobs)
        offset = prompt_offset(echo, outcome.prompt_logprobs) if outcome.prompt_logprobs else len(text)
        logprobs = completion_logprobs(likelihoods, n_top, offset)
    return CompletionChoice(
        index=index, text=text + outcome.text, logprobs=logprobs, finish_reason=outcome.finish_reason
    )
