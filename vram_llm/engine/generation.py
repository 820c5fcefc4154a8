"""A sequence's answer in the making: rows of logits become tokens, tokens become text."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from itertools import takewhile

from vram_llm.engine.request import FinishReason, Likelihood, Request, TokenEvent
from vram_llm.engine.sampling.logprobs import likelihood, unpredicted
from vram_llm.engine.sampling.sampler import Chooser, DeviceChooser
from vram_llm.engine.sampling.steering import Steering
from vram_llm.engine.sampling.structured_output import Constraint, GrammarFailed
from vram_llm.engine.sequence import Sequence
from vram_llm.engine.speculative.draft_budget import Guesses
from vram_llm.engine.speculative.prompt_lookup import PromptLookup
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.vocab import TextStream


@dataclass(slots=True)
class Choices:
    """What rows of logits gave: tokens, and how likely each was, but for an end, where that was asked for.

    `failure` says why there are no more.
    """

    tokens: list[int] = field(default_factory=list)
    likelihoods: list[Likelihood] = field(default_factory=list)
    failure: str | None = None


def progress(sequence: Sequence) -> TokenEvent:
    """How far a sequence's prompt is computed."""
    return TokenEvent(
        id=sequence.id,
        prompt_tokens=sequence.n_prompt,
        cached_tokens=sequence.n_reused,
        prompt_done=min(sequence.n_cached, sequence.n_prompt),
    )


@dataclass(slots=True)
class Generation:
    """What the engine keeps for a sequence besides its tokens and cells."""

    request: Request
    text: TextStream
    chooser: Chooser | DeviceChooser
    constraint: Constraint | None
    lookup: PromptLookup | None  # None: no drafts
    guesses: Guesses | None = None  # None: no draft model's
    steering: Steering | None = None
    prompt_likelihoods: list[Likelihood] = field(default_factory=list)

    def draft(self, sequence: Sequence, most: int) -> list[int]:
        """At most `most` tokens that may follow; none where drafts do not pay."""
        if self.lookup is None or most < 1:
            return []
        draft = self.lookup.draft(sequence.tokens, min(most, sequence.n_left - 1))
        if sequence.images:  # whose rows are no tokens
            draft = list(takewhile(lambda token: token >= 0, draft))
        return self.fitting(draft)

    def fitting(self, draft: list[int]) -> list[int]:
        """As much of a draft as its grammar allows."""
        return draft if self.constraint is None else self.constraint.fitting(draft)

    def choose(
        self, model: LoadedModel, rows: Rows[int], draft: Rows[int], *, guessed: bool = False
    ) -> Choices:
        """A token from the first of `rows` and, as long as `draft` foretold them, from those after it.

        Row i + 1 was computed with `draft[i]` as its token. `guessed`: by the draft model.
        """
        if not draft and not self._is_watched and self.request.logprobs is None:
            if self.lookup is not None:
                self.lookup.rest(1)
            return Choices([self.chooser.choose(rows[0])])
        choices = Choices()
        for row, foretold in zip(rows, (*draft, None), strict=True):
            try:
                token = self._choose(row)
            except GrammarFailed as error:
                choices.failure = str(error)
                break
            choices.tokens.append(token)
            if self.request.logprobs is not None and not self._ends(model, token):
                told = likelihood(model.vocab, model.logits(row), token, self.request.logprobs)
                choices.likelihoods.append(told)
            if token != foretold or self.is_complete:
                break
        if draft and (source := self.guesses if guessed else self.lookup) is not None:
            source.observe(len(draft), max(len(choices.tokens) - 1, 0))
        elif self.lookup is not None:
            self.lookup.rest(1)
        return choices

    def _choose(self, row: int) -> int:
        """A token. Raises GrammarFailed."""
        steering = self.steering
        if self.constraint is None and steering is None:
            return self.chooser.choose(row)
        allowed = self.constraint.allowed() if self.constraint is not None else None
        if steering is not None:
            allowed = steering.allowed(allowed)
        token = self.chooser.choose(row, allowed)
        if self.constraint is not None:
            self.constraint.accept(token)
        self.note(token)
        return token

    def note(self, token: int) -> None:
        """Go on with a token that was chosen, as far as that decides which may come later."""
        if self.steering is not None:
            self.steering.accept(token)
            if self.steering.is_over:
                self.steering = None

    @property
    def n_free(self) -> int | None:
        """How many of the next tokens may be any; None: all."""
        return None if self.steering is None else self.steering.n_free

    @property
    def _is_watched(self) -> bool:
        """True where not every token may come, or each has to be looked at."""
        return self.constraint is not None or self.steering is not None

    def _ends(self, model: LoadedModel, token: int) -> bool:
        is_end = model.vocab.is_end(token) and not self.request.ignore_eos
        return is_end or token in self.request.stop_token_ids

    @property
    def is_plain(self) -> bool:
        """True where a step's token is all there is to it: no grammar, likelihoods or draft model."""
        wants_more = self.request.logprobs is not None or self.request.prompt_logprobs is not None
        is_watched = self.constraint is not None or bool(self.request.stop_token_ids)
        return self.guesses is None and not (is_watched or wants_more)

    @property
    def is_complete(self) -> bool:
        """True once its grammar lets nothing follow."""
        return self.constraint is not None and self.constraint.is_complete

    def tell(self, model: LoadedModel, sequence: Sequence, choices: Choices) -> TokenEvent:
        """Add tokens to the answer, up to one that ends it; the news of that."""
        text, reason = "", FinishReason.LENGTH if sequence.max_tokens == 0 else None
        n_written = 0
        for token in choices.tokens:
            more, reason = self._write(model, sequence, token)
            text += more
            n_written += 1
            if reason is not None:
                break
        if self.is_complete and n_written == len(choices.tokens):
            reason = FinishReason.STOP
        if choices.failure is not None and reason is None:
            reason = FinishReason.ERROR
        if reason is not None or self.text.stopped:
            text += self.text.finish()
            reason = FinishReason.STOP if self.text.stopped else reason
        is_first = sequence.n_generated == n_written
        return TokenEvent(
            id=sequence.id,
            text=text,
            token_ids=tuple(choices.tokens[:n_written]),
            logprobs=tuple(choices.likelihoods[:n_written]),
            prompt_logprobs=tuple(self.prompt_likelihoods) if is_first else (),
            prompt_tokens=sequence.n_prompt,
            completion_tokens=sequence.n_generated,
            cached_tokens=sequence.n_reused,
            finish_reason=reason,
            stop=self.text.stop,
            error=choices.failure if reason is FinishReason.ERROR else None,
        )

    def _write(self, model: LoadedModel, sequence: Sequence, token: int) -> tuple[str, FinishReason | None]:
        """Add `token` to the answer; the text that became final, and why the answer ends here if it does."""
        sequence.tokens.append(token)
        if self._ends(model, token):
            return "", FinishReason.STOP
        text = self.text.push(token)
        if self.text.stopped:
            return text, FinishReason.STOP
        return text, FinishReason.LENGTH if sequence.n_generated >= sequence.max_tokens else None

    def read_prompt(self, model: LoadedModel, sequence: Sequence, start: int, rows: Rows[int]) -> None:
        """Note how likely the prompt's tokens after place `start` were; `rows` begin with that of `start`."""
        n_top = self.request.prompt_logprobs or 0
        told = self.prompt_likelihoods
        if not told:
            told.append(unpredicted(model.vocab, sequence.tokens[0]))
        for row, place in zip(rows, range(start + 1, sequence.n_prompt), strict=False):
            if place == len(told):  # else it was told before the sequence gave way
                told.append(likelihood(model.vocab, model.logits(row), sequence.tokens[place], n_top))
        sequence.n_told = len(told)
