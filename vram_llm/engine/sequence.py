"""A request on its way through the engine, and the piece of it that one step computes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vram_llm.llama.multimodal.encoder import ImageRows

_TOKEN_BITS = 32


class DeviceSamplerConfig(NamedTuple):
    """All of a request's sampling but its seed, where the device samples. Greedy at a temperature of 0."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def samplers(self) -> tuple[bool, ...]:
        """Which samplers its chain has, whatever their parameters."""
        return (self.temperature > 0, self.top_k > 0, self.top_p < 1, self.min_p > 0, bool(self.bias))


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """An image in a sequence: `count` rows from `start` on, at `n_positions` positions or as many."""

    start: int
    count: int
    n_positions: int
    rows: "ImageRows"


@dataclass(slots=True, eq=False)
class Sequence:
    """One request's tokens. `tokens` is the prompt and, after it, what was generated.

    `adapters` are the LoRA adapters it is computed with, by number; None: all there are.
    Where `tells_prompt`, logits of the prompt's rows are wanted too; for `n_told` tokens they have been had.
    Of `tokens`, the first `n_cached` are in the cells of `slot`, and the first `n_in_tree` of those are
    counted by the prefix cache rather than for this sequence. `n_reused` of the prompt came from there.
    `device_sampler` samples it on the device; None: the host does. `may_take_host` instead (device_slots.py).
    `images` are in the prompt, ascending; their rows have ids below 0 in `tokens`.
    """

    id: str
    tokens: list[int]
    n_prompt: int
    max_tokens: int
    adapters: tuple[int, ...] | None = None
    tells_prompt: bool = False
    device_sampler: DeviceSamplerConfig | None = None
    may_take_host: bool = False
    n_told: int = 0
    slot: int = -1  # -1: it waits
    n_cached: int = 0
    n_in_tree: int = 0
    n_reused: int = 0
    stops: list[int] = field(default_factory=list)  # positions whose state is worth keeping, ascending
    kept: tuple[int, int] | None = None  # while preempted: the key of its state, and the tokens that holds
    arrival: int = 0
    n_passed: int = 0  # later ones let in before it
    images: tuple[Span, ...] = ()
    reports_progress: bool = False

    @property
    def next_image(self) -> Span | None:
        """The image to compute now, whole, before anything else of it."""
        return next((each for each in self.images if each.start == self.n_cached), None)

    def text_from(self, start: int) -> int:
        """How many tokens there are from place `start` on before the next image."""
        ends = (each.start for each in self.images if each.start >= start)
        return next(ends, len(self.tokens)) - start

    def position(self, place: int) -> int:
        """llama.cpp's position of what stands at a place of `tokens`; an image may take fewer than rows."""
        if not self.images:
            return place
        return place - sum(each.count - each.n_positions for each in self.images if each.start < place)

    @property
    def n_shared(self) -> int:
        """How many of its tokens others may share: up to an image with several rows at one position."""
        ends = (each.start for each in self.images if each.n_positions != each.count)
        return next(ends, len(self.tokens))

    def known_as(self, end: int) -> list[int]:
        """Its tokens up to `end` as the prefix cache knows them: with other adapters, other first tokens."""
        tokens = self.tokens[:end]
        if self.images:
            del tokens[self.n_shared :]
        if self.adapters is not None and tokens:
            tokens[0] += sum(1 << (_TOKEN_BITS + 1 + i) for i in self.adapters) + (1 << _TOKEN_BITS)
        return tokens

    @property
    def n_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.n_prompt

    @property
    def n_left(self) -> int:
        """Tokens it may still generate."""
        return self.max_tokens - self.n_generated

    @property
    def is_telling(self) -> bool:
        """True while logits of its prompt's rows are wanted."""
        return self.tells_prompt and self.n_told < self.n_prompt

    @property
    def n_pending(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.tokens) - self.n_cached


@dataclass(slots=True)
class Chunk:
    """Compute `count` tokens of a sequence from `start` on, and after them those of a draft.

    Not frozen, which costs as much as a row does.
    """

    sequence: Sequence
    start: int
    count: int
    draft: tuple[int, ...] = ()
    guessed: bool = False  # by the draft model
    image: Span | None = None  # they are its rows

    @property
    def samples(self) -> bool:
        """True where the last row gives the sequence its next token."""
        return self.start + self.count == len(self.sequence.tokens)

    @property
    def n_outputs(self) -> int:
        """Rows of logits it asks for, its last ones."""
        if self.sequence.is_telling:
            return self.count
        return 1 + len(self.draft) if self.samples else 0


def by_adapters(chunks: list[Chunk]) -> list[list[Chunk]]:
    """Chunks in groups that one batch can hold: llama.cpp computes all rows of one with the same adapters."""
    groups: dict[tuple[int, ...] | None, list[Chunk]] = {}
    for chunk in chunks:
        groups.setdefault(chunk.sequence.adapters, []).append(chunk)
    return list(groups.values())
