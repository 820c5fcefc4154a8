"""The answer of one sequence while it is generated: rows of logits become tokens, tokens become text."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from itertools import takewhile

from vram_llm.engine.request import FinishReason, Likelihood, Request, TokenEvent
from vram_llm.engine.sampling.logprobs import likelihood, sampled_likelihood, unpredicted
from vram_llm.engine.sampling.sampler import Candidates, DeviceSampler, Sampler
from vram_llm.engine.sampling.structured_output import Constraint, GrammarFailed
from vram_llm.engine.sampling.token_rules import TokenRules
from vram_llm.engine.sequence import Sequence
from vram_llm.engine.speculative.draft_budget import SequenceDraftStats
from vram_llm.engine.speculative.prompt_lookup import PromptLookup
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.vocab import TextStream


@dataclass(slots=True)
class SampledTokens:
    """Tokens sampled from rows of logits, and their `likelihoods` if the request asks for logprobs.

    A token that ends the answer has no likelihood. `failure` is the reason why sampling had to stop.
    """

    tokens: list[int] = field(default_factory=list)
    likelihoods: list[Likelihood] = field(default_factory=list)
    failure: str | None = None


def progress_event(sequence: Sequence) -> TokenEvent:
    """The event that reports how many tokens of a sequence's prompt are computed."""
    return TokenEvent(
        id=sequence.id,
        prompt_tokens=sequence.n_prompt,
        cached_tokens=sequence.n_reused,
        slot=sequence.number,
        prompt_done=min(sequence.n_cached, sequence.n_prompt),
    )


@dataclass(slots=True)
class Generation:
    """State of a sequence that is neither tokens nor cells: sampler, grammar, drafts, text."""

    request: Request
    text: TextStream
    sampler: Sampler | DeviceSampler
    constraint: Constraint | None
    lookup: PromptLookup | None  # None: no drafts
    draft_stats: SequenceDraftStats | None = None  # None: the draft model does not draft for it
    token_rules: TokenRules | None = None
    prompt_likelihoods: list[Likelihood] = field(default_factory=list)
    n_drafted: int = 0
    n_accepted: int = 0  # of the drafted tokens

    def resume(self, tokens: Rows[int]) -> None:
        """Take in the tokens that an earlier engine wrote. Their text was sent."""
        for token in tokens:
            self.text.push(token)
            self.advance_token_rules(token)
        if self.constraint is not None:
            self.constraint.accept_all(list(tokens))
        if not self.request.sampling.is_stateful:  # its state depends on logits that are gone
            self.sampler.resume(tokens)

    def draft(self, sequence: Sequence, most: int) -> list[int]:
        """At most `most` tokens that may follow, by prompt lookup; empty if drafts do not pay."""
        if self.lookup is None or most < 1:
            return []
        draft = self.lookup.draft(sequence.tokens, min(most, sequence.n_left - 1))
        if sequence.images:  # the ids of image rows are no tokens
            draft = list(takewhile(lambda token: token >= 0, draft))
        return self.allowed_draft(draft)

    def allowed_draft(self, draft: list[int]) -> list[int]:
        """The longest beginning of a draft that the grammar allows."""
        return draft if self.constraint is None else self.constraint.allowed_prefix(draft)

    def sample(
        self, model: LoadedModel, rows: Rows[int], draft: Rows[int], *, by_draft_model: bool = False
    ) -> SampledTokens:
        """Sample a token from the first of `rows`, and from each later row while the draft is accepted.

        Row i + 1 was computed with `draft[i]` as its token. `by_draft_model`: the draft is the draft model's.
        """
        n_top = self.request.logprobs
        if not draft and not self._has_rules and n_top is None:
            if self.lookup is not None:
                self.lookup.earn_credit(1)
            return SampledTokens([self.sampler.sample(rows[0])])
        sampled = SampledTokens()
        for row, drafted in zip(rows, (*draft, None), strict=True):
            try:
                token, candidates = self._sample(row)
            except GrammarFailed as error:
                sampled.failure = str(error)
                break
            sampled.tokens.append(token)
            if n_top is not None and not self._ends(model, token):
                sampled.likelihoods.append(
                    likelihood(model.vocab, model.logits(row), token, n_top)
                    if candidates is None
                    else sampled_likelihood(model.vocab, candidates, token, n_top)
                )
            if token != drafted or self.is_complete:
                break
        n_accepted = max(len(sampled.tokens) - 1, 0)
        self.n_drafted, self.n_accepted = self.n_drafted + len(draft), self.n_accepted + n_accepted
        if draft and (source := self.draft_stats if by_draft_model else self.lookup) is not None:
            source.observe(len(draft), n_accepted)
        elif self.lookup is not None:
            self.lookup.earn_credit(1)
        return sampled

    def _sample(self, row: int) -> tuple[int, Candidates | None]:
        """A token that the grammar and the token rules allow, and the candidates if the request wants them.

        Raises GrammarFailed.
        """
        allowed = self.constraint.allowed() if self.constraint is not None else None
        if self.token_rules is not None:
            allowed = self.token_rules.allowed(allowed)
        candidates = None
        if self.request.post_sampling and isinstance(self.sampler, Sampler):
            token, candidates = self.sampler.sample_candidates(row, allowed)
        else:
            token = self.sampler.sample(row, allowed)
        if self.constraint is not None:
            self.constraint.accept(token)
        self.advance_token_rules(token)
        return token, candidates

    def advance_token_rules(self, token: int) -> None:
        """Advance the token rules by a sampled token; drop them once all tokens are free."""
        if self.token_rules is not None:
            self.token_rules.accept(token)
            if self.token_rules.is_over:
                self.token_rules = None

    @property
    def n_free(self) -> int | None:
        """The number of next tokens that the token rules leave free; None: all."""
        return None if self.token_rules is None else self.token_rules.n_free

    @property
    def _has_rules(self) -> bool:
        """True if a grammar or token rules may forbid tokens: they must also see each token."""
        return self.constraint is not None or self.token_rules is not None

    def _ends(self, model: LoadedModel, token: int) -> bool:
        is_end = model.vocab.is_end(token) and not self.request.ignore_eos
        return is_end or token in self.request.stop_token_ids

    @property
    def is_plain(self) -> bool:
        """True if a step gives the request only a token: no grammar, no logprobs, no draft model's drafts."""
        wants_more = self.request.logprobs is not None or self.request.prompt_logprobs is not None
        is_watched = self.constraint is not None or bool(self.request.stop_token_ids)
        may_draft = self.draft_stats is not None and not self.draft_stats.idle_steps
        return not (may_draft or is_watched or wants_more)

    @property
    def is_complete(self) -> bool:
        """True once its grammar allows no further token."""
        return self.constraint is not None and self.constraint.is_complete

    def write(self, model: LoadedModel, sequence: Sequence, sampled: SampledTokens) -> TokenEvent:
        """Append sampled tokens to the answer, up to one that ends it. Returns the event for the client."""
        text, reason = "", FinishReason.LENGTH if sequence.max_tokens == 0 else None
        n_written = 0
        for token in sampled.tokens:
            more, reason = self._write_token(model, sequence, token)
            text += more
            n_written += 1
            if reason is not None:
                break
        if self.is_complete and n_written == len(sampled.tokens):
            reason = FinishReason.STOP
        if sampled.failure is not None and reason is None:
            reason = FinishReason.ERROR
        if reason is not None or self.text.stopped:
            text += self.text.finish()
            reason = self._text_ending(reason)
        is_first = sequence.n_generated == n_written
        return TokenEvent(
            id=sequence.id,
            text=text,
            token_ids=tuple(sampled.tokens[:n_written]),
            logprobs=tuple(sampled.likelihoods[:n_written]),
            prompt_logprobs=tuple(self.prompt_likelihoods) if is_first else (),
            prompt_tokens=sequence.n_prompt,
            completion_tokens=sequence.n_generated,
            cached_tokens=sequence.n_reused,
            slot=sequence.number,
            finish_reason=reason,
            stop=self.text.stop,
            error=sampled.failure if reason is FinishReason.ERROR else None,
            prompt=None if reason is None else self._prompt_text(model, sequence),
            drafted_tokens=self.n_drafted,
            accepted_tokens=self.n_accepted,
        )

    def _text_ending(self, reason: FinishReason | None) -> FinishReason | None:
        """Why the answer ends, which its text may have done before `reason`."""
        if self.text.stopped:
            return FinishReason.STOP if self.text.stop is not None else FinishReason.LENGTH
        return reason

    def _prompt_text(self, model: LoadedModel, sequence: Sequence) -> str | None:
        """The text of the prompt's tokens, control tokens included, if the request asks for it."""
        if not self.request.returns_prompt:
            return None
        spelling = model.vocab.spelling
        pieces = [spelling(token) for token in sequence.tokens[: sequence.n_prompt] if token >= 0]
        return b"".join(pieces).decode("utf-8", "replace")

    def cut_off(self, model: LoadedModel, sequence: Sequence) -> TokenEvent:
        """End the answer with the tokens that it has. Returns the event for the client."""
        text = self.text.finish()
        return TokenEvent(
            id=sequence.id,
            text=text,
            prompt_tokens=sequence.n_prompt,
            completion_tokens=sequence.n_generated,
            cached_tokens=sequence.n_reused,
            slot=sequence.number,
            finish_reason=self._text_ending(FinishReason.LENGTH),
            stop=self.text.stop,
            prompt=self._prompt_text(model, sequence),
            drafted_tokens=self.n_drafted,
            accepted_tokens=self.n_accepted,
        )

    def _write_token(
        self, model: LoadedModel, sequence: Sequence, token: int
    ) -> tuple[str, FinishReason | None]:
        """Append `token`. Returns the text that became final, and the reason if the answer ends here."""
        sequence.tokens.append(token)
        if self._ends(model, token):
            return "", FinishReason.STOP
        text = self.text.push(token)
        if self.text.stopped:
            return text, self._text_ending(None)
        return text, FinishReason.LENGTH if sequence.n_generated >= sequence.max_tokens else None

    def note_prompt_logprobs(
        self, model: LoadedModel, sequence: Sequence, start: int, rows: Rows[int]
    ) -> None:
        """Keep the likelihoods of the prompt's tokens after index `start`; `rows` begins with its row."""
        n_top = self.request.prompt_logprobs or 0
        likelihoods = self.prompt_likelihoods
        if not likelihoods:
            likelihoods.append(unpredicted(model.vocab, sequence.tokens[0]))
        for row, index in zip(rows, range(start + 1, sequence.n_prompt), strict=False):
            if index == len(likelihoods):  # after a preemption, rows are computed again
                likelihoods.append(likelihood(model.vocab, model.logits(row), sequence.tokens[index], n_top))
        sequence.n_prompt_logprobs = len(likelihoods)
