"""A pace that has made up its mind."""

from dataclasses import dataclass


@dataclass(slots=True)
class FixedPace:
    """So many prompt rows beside decoding streams, and so many alone, whatever steps take."""

    beside: int
    alone: int = 1000

    def prefill_rows(self, n_decode: int, n_prompts: int) -> int:
        return self.beside if n_decode else self.alone
