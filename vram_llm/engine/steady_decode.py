"""A run of steps in which the same streams compute a token each, and nothing else happens.

Nearly all steps of a busy engine are such. What the usual step does for one stream after the other, with
objects of their own, is done here for all of them in columns; what only later steps have to know is noted
once, at the run's end.
"""

from collections.abc import Callable

from vram_llm.engine.generation import Generation
from vram_llm.engine.request import Tick
from vram_llm.engine.sequence import Chunk, Sequence
from vram_llm.engine.stats_recorder import Meter
from vram_llm.llama.model import LoadedModel

MOST_STEPS = 32  # the engine's figures are sent between runs
_LEAST_STEPS = 2

Stream = tuple[Sequence, Generation]


class DecodeRun:
    """At most `n_left` steps of `streams`, whose rows the model's batch holds, in their order."""

    def __init__(self, model: LoadedModel, streams: list[Stream], n_left: int) -> None:
        self.n_left = n_left
        self.seconds = 0.0  # in llama.cpp
        self.streams = streams
        self._model, self._vocab = model, model.vocab
        self._columns: list[list[int]] = []  # the tokens of each step
        self._last = [sequence.tokens[-1] for sequence, _ in streams]
        self._positions = model.batch.ahead(n_left)
        choosers = [generation.chooser for _, generation in streams]
        self._choosers = None if all(each.is_best_of_logits for each in choosers) else choosers
        self._steered = [(i, g) for i, (_, g) in enumerate(streams) if g.steering is not None]
        self._texts = [generation.text for _, generation in streams]
        self._watched = {i for i, text in enumerate(self._texts) if not text.is_plain}

    def fill(self) -> None:
        """Put the next row of every stream into the batch."""
        self._model.batch.advance(self._last, self._positions[len(self._columns)])

    def choose(self) -> list[int]:
        """Every stream's next token, from the rows just computed."""
        if self._choosers is None:
            tokens = self._model.best(len(self.streams))
        else:
            tokens = [chooser.choose(row) for row, chooser in enumerate(self._choosers)]
        for i, generation in self._steered:
            generation.note(tokens[i])
        return tokens

    def write(self, tokens: list[int], seconds: float) -> Tick | None:
        """Go on with tokens that took `seconds` to compute; None where one of them may end its stream."""
        plain = list(map(self._vocab.plain.__getitem__, tokens))
        if None in plain and not self._vocab.ends.isdisjoint(tokens):
            return None
        ids = [] if self._columns else [sequence.id for sequence, _ in self.streams]
        self._columns.append(tokens)
        self._last = tokens
        self.n_left -= 1
        self.seconds += seconds
        texts = [text for text in plain if text is not None]
        if self._watched or len(texts) < len(tokens):
            texts = [
                self._push(i, token) if text is None or i in self._watched else text
                for i, (token, text) in enumerate(zip(tokens, plain, strict=True))
            ]
        return Tick(texts, tokens, ids)

    def _push(self, i: int, token: int) -> str:
        self._vocab.note_plain(token)
        text = self._texts[i].push(token)
        (self._watched.discard if self._texts[i].is_plain else self._watched.add)(i)
        return text

    def chunks(self) -> list[Chunk]:
        """The next step of its streams as the usual step has it, after `land`."""
        return [Chunk(sequence, sequence.n_cached, 1) for sequence, _ in self.streams]

    @property
    def stopped(self) -> list[Sequence]:
        """Those that have met a stop string."""
        return [self.streams[i][0] for i in self._watched if self._texts[i].stopped]

    def land(self, meter: Meter) -> int:
        """Tell the streams and the meter what became of them; how many steps that was."""
        n_steps = len(self._columns)
        if not n_steps:
            return 0
        for (sequence, generation), *tokens in zip(self.streams, *self._columns, strict=True):
            sequence.tokens += tokens
            sequence.n_cached += n_steps
            meter.n_device_tokens += n_steps if sequence.device_sampler is not None else 0
            if generation.lookup is not None:
                generation.lookup.rest(n_steps)
        meter.n_steps += n_steps
        meter.n_generated_tokens += n_steps * len(self.streams)
        return n_steps


def decode_run(
    model: LoadedModel, chunks: list[Chunk], find: Callable[[str], Generation | None], n_free_cells: int
) -> DecodeRun | None:
    """The run that may follow the step that computed `chunks`, of all that run; None where there is none.

    It ends before a stream reaches its last token, or one that not all may be. Beside n streams drafts are
    looked for every n steps.
    """
    streams: list[Stream] = []
    for chunk in chunks:
        sequence = chunk.sequence
        generation = find(sequence.id)
        if generation is None or not generation.is_plain or sequence.n_pending != 1:
            return None
        if chunk.count != 1 or chunk.draft:  # its rows in the batch are others
            return None
        streams.append((sequence, generation))
    n_steps = min(MOST_STEPS, n_free_cells // len(streams), *(s.n_left - 1 for s, _ in streams))
    free = [n for _, generation in streams if (n := generation.n_free) is not None]
    n_steps = min([n_steps, *free])
    lookups = (generation.lookup for _, generation in streams if generation.lookup is not None)
    n_steps = min([n_steps, *(max(lookup.n_resting, len(streams)) for lookup in lookups)])
    return DecodeRun(model, streams, n_steps) if n_steps >= _LEAST_STEPS else None
