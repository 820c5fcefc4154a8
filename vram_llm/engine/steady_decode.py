"""Steady decode: steps in which the same streams compute one token each, and nothing else happens.

Most steps of a busy engine are of this kind. The full step works stream by stream, with objects for each.
This one works in columns, over all streams at once, and updates sequences and stats only at its end.
"""

from collections.abc import Callable
from time import perf_counter

from vram_llm.engine.generation import Generation
from vram_llm.engine.request import DecodeTick
from vram_llm.engine.sequence import Chunk, Sequence
from vram_llm.engine.speculative.prompt_lookup import PromptLookup
from vram_llm.engine.stats_recorder import StatsRecorder
from vram_llm.llama.model import LoadedModel

MAX_STEPS = 32  # the engine's stats are sent between runs
_MIN_STEPS = 2

Stream = tuple[Sequence, Generation]


class SteadyDecode:
    """At most `n_left` more steps of `streams`, whose rows the model's batch holds, in their order.

    It ends early where prompt lookup may have a draft.
    """

    def __init__(self, model: LoadedModel, streams: list[Stream], n_left: int) -> None:
        self.n_left = n_left
        self.seconds = self.last_s = 0.0  # in llama.cpp: of all steps, and of the last one
        self.streams = streams
        self._model, self._vocab, self._plain = model, model.vocab, model.vocab.plain
        self._columns: list[list[int]] = []  # the tokens of each step
        self._n_counted = 0  # of the columns, in the stats
        self._llama_s = self._sampling_s = 0.0  # not in the stats yet
        self.status = 0
        self.tokens = [sequence.tokens[-1] for sequence, _ in streams]  # of the last step
        samplers = [generation.sampler for _, generation in streams]
        self._samplers = None if all(sampler.is_argmax for sampler in samplers) else samplers
        self._ruled = [(i, g) for i, (_, g) in enumerate(streams) if g.token_rules is not None]
        self._texts = [generation.text for _, generation in streams]
        self.watched = {i for i, text in enumerate(self._texts) if not text.is_plain}
        self._followed: list[tuple[int, PromptLookup]] = []  # lookups that may draft, by stream
        for i, (sequence, generation) in enumerate(streams):
            if (lookup := generation.lookup) is not None and not lookup.tokens_until_credit:
                self._followed.append((i, lookup))
                if lookup.follow(sequence.tokens):
                    self.n_left = min(n_left, len(streams))

    def step(self) -> DecodeTick | None:
        """Compute every stream's next row, and append its token.

        None if `status`, that of LoadedModel.decode, is not 0, or else if one of `tokens` may end its stream.
        """
        model = self._model
        model.batch.advance(self.tokens)
        began = perf_counter()
        self.status = model.decode()
        if self.status != 0:
            return None
        model.wait()
        computed = perf_counter()
        if self._samplers is None:
            tokens = model.argmax(len(self.streams))
        else:
            tokens = [sampler.sample(row) for row, sampler in enumerate(self._samplers)]
        for i, generation in self._ruled:
            generation.advance_token_rules(tokens[i])
        self.tokens = tokens
        self.last_s = computed - began
        self._llama_s += self.last_s
        self._sampling_s += perf_counter() - computed
        texts = list(map(self._plain.__getitem__, tokens))
        is_plain = "" not in texts
        if not is_plain and not self._vocab.ends.isdisjoint(tokens):
            return None
        ids = [] if self._columns else [sequence.id for sequence, _ in self.streams]
        self._columns.append(tokens)
        self.n_left -= 1
        self.seconds += self.last_s
        if self._followed:
            may_draft = [lookup.note(tokens[i]) for i, lookup in self._followed]
            if True in may_draft and len(self._columns) >= len(self.streams):
                self.n_left = 0
        if self.watched or not is_plain:
            texts = [
                text if text and i not in self.watched else self._push(i, token)
                for i, (token, text) in enumerate(zip(tokens, texts, strict=True))
            ]
        return DecodeTick(texts, tokens, ids)

    def _push(self, i: int, token: int) -> str:
        self._vocab.note_plain(token)
        text = self._texts[i].push(token)
        (self.watched.discard if self._texts[i].is_plain else self.watched.add)(i)
        return text

    def chunks(self) -> list[Chunk]:
        """The next step of its streams as chunks of the full step. Call after `commit`."""
        return [Chunk(sequence, sequence.n_cached, 1) for sequence, _ in self.streams]

    @property
    def stopped(self) -> list[Sequence]:
        """Sequences that have met a stop string."""
        return [self.streams[i][0] for i in self.watched if self._texts[i].stopped]

    def count(self, recorder: StatsRecorder) -> None:
        """Write the steps into the stats."""
        recorder.llama.add(self._llama_s)
        recorder.sampling.add(self._sampling_s)
        self._llama_s = self._sampling_s = 0.0
        n_steps, n_streams = len(self._columns) - self._n_counted, len(self.streams)
        if not n_steps:
            return
        self._n_counted += n_steps
        n_on_device = sum(sequence.device_sampler is not None for sequence, _ in self.streams)
        recorder.note_steps(n_steps, n_streams, n_streams)
        recorder.n_device_tokens += n_steps * n_on_device
        recorder.n_generated_tokens += n_steps * n_streams

    def commit(self, recorder: StatsRecorder) -> int:
        """Write the steps into the sequences and the stats. Returns the number of steps."""
        self.count(recorder)
        n_steps = len(self._columns)
        if not n_steps:
            return 0
        for (sequence, generation), *tokens in zip(self.streams, *self._columns, strict=True):
            sequence.tokens += tokens
            sequence.n_cached += n_steps
            if generation.lookup is not None:
                generation.lookup.earn_credit(n_steps)
        return n_steps


def steady_decode_after(
    model: LoadedModel, chunks: list[Chunk], find: Callable[[str], Generation | None], n_free_cells: int
) -> SteadyDecode | None:
    """The steady decode that can follow the step that computed `chunks`; None if there is none.

    `chunks` are those of all running sequences. It ends before a stream reaches its last token, or a token
    that token rules restrict, or the drafter has work. With n streams, prompt lookup ends it after n steps at
    the earliest.
    """
    streams: list[Stream] = []
    for chunk in chunks:
        sequence = chunk.sequence
        generation = find(sequence.id)
        if generation is None or not generation.is_plain or sequence.n_pending != 1:
            return None
        if chunk.count != 1 or chunk.draft:  # then the batch has other rows
            return None
        streams.append((sequence, generation))
    n_steps = min(MAX_STEPS, n_free_cells // len(streams), *(s.n_left - 1 for s, _ in streams))
    free = [n for _, generation in streams if (n := generation.n_free) is not None]
    n_steps = min([n_steps, *free])
    drafts = (generation.draft_stats for _, generation in streams if generation.draft_stats is not None)
    n_steps = min([n_steps, *(stats.idle_steps for stats in drafts)])
    resting = (g.lookup.tokens_until_credit for _, g in streams if g.lookup is not None)
    n_steps = min(
        [n_steps, *(max(n_until_credit, len(streams)) for n_until_credit in resting if n_until_credit)]
    )
    steady = SteadyDecode(model, streams, n_steps) if n_steps >= _MIN_STEPS else None
    return steady if steady is not None and steady.n_left >= _MIN_STEPS else None
