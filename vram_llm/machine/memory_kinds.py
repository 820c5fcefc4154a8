"""Kinds of main memory, and the rule for their bandwidth: channels x transfers per second x 8 bytes.

A channel has 64 bits, so "256 bit" of LPDDR are four channels. The slowest rate of each generation is that of
JEDEC (JESD79-3, -4 and -5 for DDR3 to DDR5, JESD209-4 and -5 for LPDDR). The fastest rate is that of modules
with XMP or EXPO profiles.
"""

import re
from dataclasses import dataclass

CHANNEL_BITS = 64
MAX_CHANNELS = 48  # four processors of twelve

# (slowest usual rate, fastest rate on sale), in millions of transfers per second
GENERATIONS = {
    "DDR3": (1333, 3000),
    "DDR4": (2133, 5333),
    "DDR5": (4800, 10600),
    "LPDDR3": (1600, 2133),
    "LPDDR4": (3200, 4267),
    "LPDDR4X": (3733, 4267),
    "LPDDR5": (5500, 6400),
    "LPDDR5X": (7467, 10700),
}
_LEAST_RATE = 800  # of a module that was clocked down
_GENERATION = re.compile(r"\b(lp)?ddr(\d)(x)?(?!\d)", re.IGNORECASE)
_CHANNELS = re.compile(
    r"\b(\d+|single|dual|two|quad|four|six|octa|eight)[ -]*(?:ch|channels?)\b", re.IGNORECASE
)
_BITS = re.compile(r"\b(\d+)[ -]?bits?\b", re.IGNORECASE)
_RATE = re.compile(r"(?<![\w.])-?(\d{3,5})(?:[ -]?(?:mt/?s|mhz))?(?![\w.])", re.IGNORECASE)
_NOISE = re.compile(
    r"\b(?:ram|memory|ecc|[rus]o?-?dimms?|rdimms?|udimms?|modules?|of|with)\b|[-,]", re.IGNORECASE
)
_NUMBERS = {"single": 1, "dual": 2, "two": 2, "quad": 4, "four": 4, "six": 6, "octa": 8, "eight": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryKind:
    """The generation of memory, its rate and its channels. None: unknown."""

    generation: str | None = None  # "DDR5"
    rate_mts: int | None = None  # millions of transfers per second on each line
    channels: float | None = None  # of 64 bits; 0.5 is one of 32 bits

    @property
    def bytes_per_s(self) -> float | None:
        """Bytes per second of all channels together; None if the rate or the channels are unknown."""
        if self.rate_mts is None or self.channels is None:
            return None
        return self.channels * self.rate_mts * 1e6 * CHANNEL_BITS / 8

    def __str__(self) -> str:
        """ "DDR5-6000 2ch", or the known parts of that."""
        rate = "" if self.rate_mts is None else str(self.rate_mts)
        kind = "-".join(part for part in (self.generation or "", rate) if part)
        channels = "" if self.channels is None else f"{self.channels:g}ch"
        return " ".join(part for part in (kind, channels) if part)


def parse_memory_kind(text: str) -> MemoryKind:
    """The kind in "DDR5-6000 2ch", "DDR4 3200 MT/s quad channel", "LPDDR5X-8533 256 bit" or a part of these.

    Raises ValueError with the reason if the text has unknown words, gives something twice, or gives a rate
    that modules of the generation do not have.
    """
    generation, rest = _take_match(_GENERATION, text)
    channels, rest = _take_match(_CHANNELS, rest)
    bits, rest = _take_match(_BITS, rest)
    rate, rest = _take_match(_RATE, rest)
    if unknown := " ".join(_NOISE.sub(" ", rest).split()):
        raise ValueError(f"{unknown!r} is no kind of memory")
    name = None if generation is None else generation[0].upper()
    if name is not None and name not in GENERATIONS:
        raise ValueError(f"{name} is not one of {', '.join(GENERATIONS)}")
    rate_mts = None if rate is None else int(rate[1])
    if rate_mts is not None:
        fastest = GENERATIONS[name][1] if name else max(fastest for _, fastest in GENERATIONS.values())
        if not _LEAST_RATE <= rate_mts <= fastest:
            raise ValueError(
                f"{name or 'memory'} is made for {_LEAST_RATE} to {fastest} MT/s, not for {rate_mts}"
            )
    return MemoryKind(generation=name, rate_mts=rate_mts, channels=_channels(channels, bits))


def _channels(channels: re.Match[str] | None, bits: re.Match[str] | None) -> float | None:
    """The number of channels of 64 bits in "2ch" or "128 bit". Raises ValueError."""
    if channels is None and bits is None:
        return None
    if channels is not None and bits is not None:
        raise ValueError(f"{channels[0]} and {bits[0]} are both given; give one")
    if channels is not None:
        word = channels[1].lower()
        count: float = _NUMBERS.get(word) or int(word)
    else:
        assert bits is not None
        count = int(bits[1]) / CHANNEL_BITS
    if not 0 < count <= MAX_CHANNELS:
        raise ValueError(f"memory has 1 to {MAX_CHANNELS} channels, not {count:g}")
    return count


def _take_match(pattern: re.Pattern[str], text: str) -> tuple[re.Match[str] | None, str]:
    """The first match and the text without it. Raises ValueError if there is a second match."""
    match = pattern.search(text)
    if match is None:
        return None, text
    rest = f"{text[: match.start()]} {text[match.end() :]}"
    if (second := pattern.search(rest)) is not None:
        raise ValueError(f"{match[0].strip()} and {second[0].strip()} are both given; give one")
    return match, rest
