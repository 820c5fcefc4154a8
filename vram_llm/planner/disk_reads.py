"""Bytes that a plan reads from the model's file for each token."""

from dataclasses import dataclass

from vram_llm.machine.types import Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskReads:
    """Bytes that a plan reads from the model's file for each token of one stream, and what spares more."""

    dense_bytes: int  # of weights that every token is multiplied with
    expert_bytes: int  # of routed experts, as many as a token is expected to use
    cyclic_bytes: int  # for each token if no weights stayed in memory
    resident_bytes: int  # of weights that stay in memory
    window_bytes: int  # of memory, for weights that are read
    bytes_per_s: Fact

    @property
    def token_bytes(self) -> int:
        """Bytes for each token."""
        return self.dense_bytes + self.expert_bytes
