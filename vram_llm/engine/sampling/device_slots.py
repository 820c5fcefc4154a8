"""Which slot has which chain of samplers on the device, and which generation is bound to it.

A chain's parameters are fixed once it is attached to a slot of llama.cpp, and attaching one makes llama.cpp
reserve its graphs and buffers again, which all streams wait for. So a slot keeps the chain of its last
request, and a request is put into a slot that has its config already; then only its state is copied. A slot
whose request needs logits on the host has no chain.
"""

from time import perf_counter
from typing import Protocol

from vram_llm.engine.request import Request
from vram_llm.engine.sampling.choose_sampler import device_sampler_config
from vram_llm.engine.sampling.sampler import DeviceSampler, Sampler
from vram_llm.engine.sampling.sampler_chains import device_chain
from vram_llm.engine.sequence import DeviceSamplerConfig, Sequence
from vram_llm.llama.model import LoadedModel

_MAX_RESERVING = 0.1  # share of the time of running streams


class SampledGeneration(Protocol):
    """A generation, as far as its sampler is concerned."""

    sampler: Sampler | DeviceSampler

    @property
    def request(self) -> Request:
        """The request that sets the sampling parameters."""


class DeviceSamplerSlots:
    """The slots of a model that samples on its device; reserved again `n_reserved` times in `reserve_s`."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._n_vocab = model.vocab.n_tokens
        self._configs: dict[int, DeviceSamplerConfig | None] = dict.fromkeys(
            range(model.plan.context.parallel)
        )
        for slot in self._configs:
            model.attach(slot, None)  # the context was made with the largest chain; its memory is reserved
        self._bound: dict[int, SampledGeneration] = {}
        self._refused: set[tuple[bool, ...]] = set()  # sets of samplers that this device cannot compute
        self._reserved_at, self._last_s = float("-inf"), 0.0
        self.n_reserved, self.reserve_s = 0, 0.0

    def config_of(self, request: Request) -> DeviceSamplerConfig | None:
        """The config with which the device samples a request; None: the host samples it."""
        config = device_sampler_config(request, self._n_vocab)
        return None if config is None or config.samplers in self._refused else config

    def pick_slot(self, free: list[int], sequence: Sequence) -> int:
        """The slot of `free` that a sequence should run in; the one freed last is at its end.

        A slot with its config; else one without a chain; else the first. If no slot has its config, and
        reserving would cost running streams more than a tenth of their time, the host samples the sequence,
        provided that it has no seed (its answer need not be reproducible) and a slot without a chain is free.
        """
        if same := [slot for slot in free if self._configs[slot] == sequence.device_sampler]:
            return same[-1]
        plain = [slot for slot in free if self._configs[slot] is None]
        is_unknown = sequence.device_sampler not in self._configs.values()
        if sequence.may_take_host and plain and is_unknown and self._reserves_often():
            sequence.device_sampler = None
            return plain[-1]
        return (plain or free)[0]

    def _reserves_often(self) -> bool:
        time_s = perf_counter() - self._reserved_at
        return bool(self._bound) and self._last_s > _MAX_RESERVING * time_s

    def bind(self, sequence: Sequence, generation: SampledGeneration) -> bool:
        """Bind a sequence's sampler to its slot; True if llama.cpp now has something to `reserve`."""
        slot = sequence.slot
        if self._bound.get(slot) is generation:
            return False
        sequence.may_take_host = False
        self._unbind(slot)
        sampler = generation.sampler
        if isinstance(sampler, DeviceSampler) and sampler.slot >= 0:
            self._unbind(sampler.slot)  # it was preempted there, and no other was bound since
        changes = self._configs[slot] != sequence.device_sampler
        if changes:
            self._attach(slot, sequence)
        if sequence.device_sampler is not None:
            if not isinstance(sampler, DeviceSampler):
                sampler.close()
                sampler = DeviceSampler(
                    self._model, sequence.device_sampler, generation.request.sampling.seed
                )
                sampler.resume(generation.request.written)
                generation.sampler = sampler
            sampler.bind(slot)
        self._bound[slot] = generation
        return changes

    def reserve(self) -> None:
        """Make llama.cpp's graphs and buffers for the chains that were attached."""
        started = perf_counter()
        self._model.reserve()
        self._reserved_at = perf_counter()
        self._last_s = self._reserved_at - started
        self.n_reserved += 1
        self.reserve_s += self._last_s

    def release(self, generation: SampledGeneration) -> None:
        """Unbind a generation that has ended, without saving its state."""
        for slot in [slot for slot, bound in self._bound.items() if bound is generation]:
            del self._bound[slot]

    def _unbind(self, slot: int) -> None:
        before = self._bound.pop(slot, None)
        if before is not None and isinstance(before.sampler, DeviceSampler):
            before.sampler.unbind()

    def _attach(self, slot: int, sequence: Sequence) -> None:
        """Attach a chain to a slot, and to as many unbound ones as have its config already.

        So a config that many requests have is soon there without reserving, and few chains are idle: their
        inputs are copied to the device in every step.
        """
        config = sequence.device_sampler
        if not self._model.attach(slot, None if config is None else device_chain(config, self._n_vocab, 0)):
            assert config is not None  # detaching is never refused
            self._refused.add(config.samplers)
            config = sequence.device_sampler = None
        n_same = sum(other == config for other in self._configs.values())
        self._configs[slot] = config
        unlike = [i for i, other in self._configs.items() if other != config and i not in self._bound]
        for other in unlike[:n_same]:
            self._model.attach(other, None if config is None else device_chain(config, self._n_vocab, 0))
            self._configs[other] = config
