"""New requests become sequences: prompts are tokenized, images read, grammars compiled, limits resolved."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from vram_llm.engine.answer_text import answer_text
from vram_llm.engine.generation import Generation
from vram_llm.engine.inputs.image_prompts import ImagePrompts, TokenizedPrompt
from vram_llm.engine.inputs.pending import PendingRequest, PendingRequests
from vram_llm.engine.inputs.text_tokenizer import Cancellation, Job, TokenizerThreads
from vram_llm.engine.inputs.tokenize import PromptTokenizer, refusal
from vram_llm.engine.request import Image, Request, TokenEvent
from vram_llm.engine.sampling.choose_sampler import SamplerFactory
from vram_llm.engine.sampling.device_slots import DeviceSamplerSlots
from vram_llm.engine.sampling.infill_sampler import check_infill_sampler
from vram_llm.engine.sampling.structured_output import Constraint, GrammarCompiler
from vram_llm.engine.sampling.token_rules import token_rules
from vram_llm.engine.sequence import Sequence
from vram_llm.engine.speculative.draft_budget import DraftCostModel, SequenceDraftStats
from vram_llm.engine.speculative.prompt_lookup import PromptLookup
from vram_llm.engine.speculative.row_cost import RowCost
from vram_llm.errors import RequestError
from vram_llm.llama.model import LoadedModel

NewSequence = tuple[Sequence, Generation]


class NewRequests:
    """Requests from their arrival until they are ready for the scheduler.

    `device_slots` is None if the host samples, `draft_costs` if there is no draft model.
    """

    def __init__(
        self,
        model: LoadedModel,
        device_slots: DeviceSamplerSlots | None,
        row_cost: RowCost,
        draft_costs: DraftCostModel | None,
        threads: TokenizerThreads,
    ) -> None:
        self._model = model
        self._device_slots = device_slots
        self._row_cost = row_cost
        self._draft_costs = draft_costs
        self._samplers = SamplerFactory(model)
        self._grammars = GrammarCompiler(model.vocab)
        self._tokenizer = PromptTokenizer(model.vocab, model.n_ctx_seq, model.n_batch)
        reader = model.images
        self._images = ImagePrompts(reader, self._tokenizer, model.n_ubatch) if reader is not None else None
        self._threads = threads
        self._shared: tuple[Request, Job[TokenizedPrompt]] | None = None  # `n` choices share a prompt
        self._pending = PendingRequests(self._forget)
        self.waiting = self._pending.waiting  # for their text, their images or their grammar

    def add(self, request: Request) -> NewSequence | TokenEvent | None:
        """Its sequence, the event that refuses it, or None if it must wait: then `ready` returns it."""
        try:
            check_infill_sampler(request, self._model.vocab)
            prompt, stop = self._prompt(request)
        except RequestError as error:
            return refusal(request, error)
        constraint = self._grammars.compile(request.grammar) if request.grammar is not None else None
        if constraint is None and isinstance(prompt, TokenizedPrompt):
            return self._sequence(request, prompt, None)
        self._pending.add(PendingRequest(request, prompt, constraint, stop))
        return None

    def ready(self, *, is_idle: bool) -> list[NewSequence | TokenEvent]:
        """The results of `add` for requests that no longer wait. If `is_idle`, waits a moment for one."""
        found: list[NewSequence | TokenEvent] = []
        for pending in self._pending.ready(is_idle=is_idle):
            try:
                found.append(self._sequence(pending.request, *pending.results()))
            except RequestError as error:
                found.append(refusal(pending.request, error))
        return found

    def cancel(self, request_id: str) -> None:
        """Drop a request that waits. An unknown id is no error."""
        self._pending.cancel(request_id)

    def count_tokens(self, text: str, images: tuple[Image, ...], *, add_special: bool) -> list[int]:
        """A prompt's tokens, -1 for each row of an image. Raises RequestError."""
        return self._image_reader().count(text, images, add_special=add_special)

    def _prompt(
        self, request: Request
    ) -> tuple[TokenizedPrompt | Future[TokenizedPrompt], Callable[[], None]]:
        """The tokens of a short text, else a future; and a function that ends the work.

        Raises RequestError.
        """
        if request.images:
            reading = self._image_reader().read(request)
            return reading, lambda: _cancel(reading)
        if self._tokenizer.is_short(request):
            return TokenizedPrompt(self._tokenizer.tokens(request)), lambda: None
        if self._shared is None or not _same_prompt(self._shared[0], request):
            self._shared = request, self._threads.submit(partial(self._tokenized, request))
        job = self._shared[1]
        return job.future, job.cancel

    def _tokenized(self, request: Request, cancellation: Cancellation) -> TokenizedPrompt:
        return TokenizedPrompt(self._tokenizer.tokens(request, cancellation))

    def _forget(self) -> None:
        """Drop the prompt that the last requests shared: it may have many megabytes."""
        self._shared = None
        if self._images is not None:
            self._images.forget()

    def _image_reader(self) -> ImagePrompts:
        if self._images is None:
            raise RequestError("this model takes no images: it is served without a projector")
        return self._images

    def _sequence(
        self, request: Request, prompt: TokenizedPrompt, constraint: Constraint | None
    ) -> NewSequence:
        """The sequence of a request that waits for nothing, and its generation."""
        model, tokens = self._model, list(prompt.tokens)
        most = model.n_ctx_seq - len(tokens)
        draft_costs = None if prompt.images else self._draft_costs  # a draft model sees no images
        generation = Generation(
            request=request,
            text=answer_text(model.vocab, request),
            sampler=self._samplers.make(
                request.sampling, [t for t in tokens if t >= 0] if prompt.images else tokens
            ),
            constraint=constraint,
            lookup=PromptLookup(self._row_cost) if model.cells.can_rewind else None,
            draft_stats=SequenceDraftStats(draft_costs) if draft_costs is not None else None,
            token_rules=token_rules(model.vocab, request),
        )
        generation.resume(request.written)
        config = None if self._device_slots is None else self._device_slots.config_of(request)
        sequence = Sequence(
            request.id,
            [*tokens, *request.written],
            len(tokens),
            most if request.max_tokens is None else min(request.max_tokens, most),
            request.adapters,
            request.namespace,
            wants_prompt_logprobs=request.prompt_logprobs is not None and not request.written,
            images=prompt.images,
            device_sampler=config,
            may_take_host=config is not None and request.sampling.seed is None,
            reports_progress=request.reports_progress,
            client=request.client,
            weight=request.weight,
            id_slot=request.id_slot,
        )
        return sequence, generation


def _same_prompt(one: Request, other: Request) -> bool:
    return all(
        getattr(one, name) == getattr(other, name) for name in ("prompt", "suffix", "infill", "add_bos")
    )


def _cancel(reading: Future[TokenizedPrompt]) -> None:
    reading.cancel()
