"""Tests to run on plans: prompts and decoding, with llama-bench's names ("pp512", "tg128")."""

import msgspec

from vram_llm.planner.types import Plan


class BenchTest(msgspec.Struct, frozen=True):
    """A prompt of `prompt` tokens, or `decode` tokens for each of `streams` sequences at once."""

    prompt: int = 0
    decode: int = 0
    streams: int = 1

    @property
    def name(self) -> str:
        """llama-bench's name for it."""
        if self.prompt:
            return f"pp{self.prompt}"
        return f"tg{self.decode}" + (f" x{self.streams}" if self.streams > 1 else "")

    @property
    def n_tokens(self) -> int:
        """Tokens computed."""
        return self.prompt or self.decode * self.streams


class ThroughputRequest(msgspec.Struct, frozen=True):
    """Load all `plans`, and run every test on each in turn, `rounds` times."""

    plans: tuple[Plan, ...]
    tests: tuple[BenchTest, ...]
    rounds: int


class RoundTimes(msgspec.Struct, frozen=True, tag=True):
    """Seconds of each round, by plan and test."""

    seconds: tuple[tuple[tuple[float, ...], ...], ...]
