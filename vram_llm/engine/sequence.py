"""A request in the engine, and the chunk of it that one step computes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vram_llm.engine.adapters import Adapters, key_of

if TYPE_CHECKING:
    from vram_llm.llama.multimodal.encoder import ImageRows

_ADAPTERS_AT = 160  # above the bits of every token and image row (128)
_NAMESPACE_AT = 512  # above those of every set of adapters


class DeviceSamplerConfig(NamedTuple):
    """A request's parameters for sampling on the device, without the seed. Temperature 0 is greedy."""

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
class ImageSpan:
    """An image in a sequence: `count` rows from index `start`, which take `n_positions` positions."""

    start: int
    count: int
    n_positions: int
    rows: "ImageRows"


@dataclass(slots=True, eq=False)
class Sequence:
    """One request's tokens: `tokens` are the prompt's `n_prompt`, then the generated ones.

    `adapters` are the LoRA adapters that compute it; None: all, as planned.
    Sequences share computed beginnings within a `namespace`.
    With `wants_prompt_logprobs`, the prompt's rows need logits too; `n_prompt_logprobs` of them are done.
    The first `n_cached` of `tokens` are in the cells of `slot`. The prefix cache counts the first `n_in_tree`
    of those; the others are this sequence's own. `n_reused` prompt tokens came from the prefix cache.
    `device_sampler` samples on the device; None: the host samples. `may_take_host`: see device_slots.py.
    `client` is whom its tokens are counted for, by `weight` (fair_shares.py).
    `images` are in the prompt, ascending; their rows have ids below 0 in `tokens`.
    `id_slot` is the number of the slot that it asks for, `number` that of its slot while it runs
    (kv_cache/numbered_slots.py).
    """

    id: str
    tokens: list[int]
    n_prompt: int
    max_tokens: int
    adapters: Adapters | None = None
    namespace: int = 0
    wants_prompt_logprobs: bool = False
    device_sampler: DeviceSamplerConfig | None = None
    may_take_host: bool = False
    n_prompt_logprobs: int = 0
    slot: int = -1  # -1: it waits
    n_cached: int = 0
    n_in_tree: int = 0
    n_reused: int = 0
    checkpoint_positions: list[int] = field(default_factory=list)  # ascending
    saved_state: tuple[int, int] | None = None  # while preempted: key of its state, tokens in it
    arrival: int = 0
    n_passed: int = 0  # later sequences admitted before it
    images: tuple[ImageSpan, ...] = ()
    reports_progress: bool = False
    client: str = ""
    weight: float = 1.0
    id_slot: int | None = None  # None: any
    number: int | None = None

    @property
    def next_image(self) -> ImageSpan | None:
        """The image to compute next, whole; None if text comes next."""
        return next((image for image in self.images if image.start == self.n_cached), None)

    def text_from(self, start: int) -> int:
        """Number of text tokens from index `start` to the next image or the end."""
        ends = (image.start for image in self.images if image.start >= start)
        return next(ends, len(self.tokens)) - start

    def position(self, index: int) -> int:
        """llama.cpp's position of `tokens[index]`; an image may take fewer positions than it has rows."""
        if not self.images:
            return index
        return index - sum(image.count - image.n_positions for image in self.images if image.start < index)

    @property
    def n_shared(self) -> int:
        """Number of tokens that others may share: up to the first image with several rows at one position."""
        ends = (image.start for image in self.images if image.n_positions != image.count)
        return next(ends, len(self.tokens))

    def cache_key(self, end: int) -> list[int]:
        """The prefix cache's key for the tokens up to `end`; the first has adapters and namespace in it."""
        tokens = self.tokens[:end]
        if self.images:
            del tokens[self.n_shared :]
        if self.adapters is not None and tokens:
            tokens[0] += key_of(self.adapters) << _ADAPTERS_AT
        if self.namespace and tokens:
            tokens[0] += self.namespace << _NAMESPACE_AT
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
    def prompt_logprobs_pending(self) -> bool:
        """True while rows of its prompt still need logits."""
        return self.wants_prompt_logprobs and self.n_prompt_logprobs < self.n_prompt

    @property
    def n_pending(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.tokens) - self.n_cached


@dataclass(slots=True)
class Chunk:
    """Compute `count` tokens of a sequence from index `start`, then the tokens of a draft.

    Not frozen: making a frozen one costs as much time as a row.
    """

    sequence: Sequence
    start: int
    count: int
    draft: tuple[int, ...] = ()
    by_draft_model: bool = False  # `draft` is the draft model's, not prompt lookup's
    image: ImageSpan | None = None  # the tokens are its rows

    @property
    def samples(self) -> bool:
        """True if the last row gives the sequence its next token."""
        return self.start + self.count == len(self.sequence.tokens)

    @property
    def n_outputs(self) -> int:
        """How many of its last rows need logits."""
        if self.sequence.prompt_logprobs_pending:
            return self.count
        return 1 + len(self.draft) if self.samples else 0


def by_adapters(chunks: list[Chunk]) -> list[list[Chunk]]:
    """Chunks grouped by adapters: llama.cpp computes all rows of a batch with the same ones."""
    groups: dict[Adapters | None, list[Chunk]] = {}
    for chunk in chunks:
        groups.setdefault(chunk.sequence.adapters, []).append(chunk)
    return list(groups.values())
