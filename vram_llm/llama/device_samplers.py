"""Sampler chains on the device that has the logits, so that only sampled tokens are copied to the host.

This is llama.cpp's backend sampling (`llama_set_sampler`, build_sampling of src/llama-graph.cpp). It makes
graphs and compute buffers again when a chain is attached or detached; otherwise only the chain's state
changes.
"""

import ctypes
from typing import Any

from vram_llm.llama import bindings as b
from vram_llm.llama.bindings import C
from vram_llm.llama.sampling import SamplerChain, largest_chain


class DeviceSamplers:
    """The chains of a context's sequences. A context is made with the largest chain for each of them.

    So the memory reserved then is enough for chains attached later. Call `close` after the context is freed.
    """

    def __init__(self, n_sequences: int, n_vocab: int) -> None:
        self._chains = {sequence: largest_chain(n_vocab) for sequence in range(n_sequences)}
        self._configs = (C.llama_sampler_seq_config * n_sequences)(
            *(
                C.llama_sampler_seq_config(sequence, ctypes.cast(chain.handle, b.Pointer))
                for sequence, chain in self._chains.items()
            )
        )

    def put_into(self, params: Any) -> None:
        """Make a context with these chains. A sequence may have as many rows as a step has, for drafts."""
        params.samplers, params.n_samplers = self._configs, len(self._configs)
        params.n_outputs_max_per_seq = 0

    def attach(self, ctx: int, sequence: int, chain: SamplerChain | None) -> bool:
        """Sample a sequence with `chain`, or with None on the host; its earlier chain is freed.

        False if the device cannot compute all of `chain`: then it is freed and none is attached.
        """
        C.llama_set_sampler(ctx, sequence, None if chain is None else chain.handle)
        if (before := self._chains.pop(sequence, None)) is not None:
            before.close()
        if chain is None:
            return True
        if not chain.is_on_device:
            C.llama_set_sampler(ctx, sequence, None)
            chain.close()
            return False
        self._chains[sequence] = chain
        return True

    def of(self, sequence: int) -> SamplerChain:
        """The chain that samples a sequence. Raises KeyError if there is none."""
        return self._chains[sequence]

    def close(self) -> None:
        """Free all chains."""
        for chain in self._chains.values():
            chain.close()
        self._chains = {}


def reserve(ctx: int) -> None:
    """Make graphs and compute buffers now, where chains have changed, and not at the next decode."""
    if b.sched_reserve is not None:
        b.sched_reserve(ctx)
