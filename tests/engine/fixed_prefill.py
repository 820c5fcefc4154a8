"""A prefill budget that does not adapt."""

from dataclasses import dataclass


@dataclass(slots=True)
class FixedPrefill:
    """Prompt rows of a step: `with_streams` with decoding streams, `alone` without."""

    with_streams: int
    alone: int = 1000

    def prefill_rows(self, n_decode: int, n_prompts: int) -> int:
        return self.with_streams if n_decode else self.alone
