"""Which slot has which chain of samplers on the device, and who sits where.

A chain's parameters are fixed once it is attached to a slot of llama.cpp, and attaching one makes llama.cpp
reserve its graphs and buffers again, which all streams wait for. So a slot keeps the chain of its last
request, and a request is put where its kind of chain is already; then only its state is copied into that. A
slot whose request needs logits on the host has none.
"""

from time import perf_counter
from typing import Protocol

from vram_llm.engine.request import Request
from vram_llm.engine.sampling.device_chain import device_sampler_config, make_chain
from vram_llm.engine.sampling.sampler import Chooser, DeviceChooser
from vram_llm.engine.sequence import DeviceSamplerConfig, Sequence
from vram_llm.llama.model import LoadedModel

MOST_RESERVING = 0.1  # of the time of those that stream


class Sampled(Protocol):
    """A generation, as far as its sampler is concerned."""

    chooser: Chooser | DeviceChooser

    @property
    def request(self) -> Request:
        """The request that asks for its samplers."""


class DeviceSamplerSlots:
    """The slots of a model that samples on its device; reserved again `n_reserved` times in `reserve_s`."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._n_vocab = model.vocab.n_tokens
        self._configs: dict[int, DeviceSamplerConfig | None] = dict.fromkeys(
            range(model.plan.context.parallel)
        )
        for slot in self._configs:
            model.attach(slot, None)  # what the context was made with has reserved, and is not needed
        self._seated: dict[int, Sampled] = {}
        self._refused: set[tuple[bool, ...]] = set()  # samplers that this device cannot compute
        self._reserved_at, self._last_s = float("-inf"), 0.0
        self.n_reserved, self.reserve_s = 0, 0.0

    def config_of(self, request: Request) -> DeviceSamplerConfig | None:
        """How the device samples a request; None: the host does."""
        config = device_sampler_config(request, self._n_vocab)
        return None if config is None or config.samplers in self._refused else config

    def choose(self, free: list[int], sequence: Sequence) -> int:
        """The slot of `free`, which begins with what was freed longest ago, that a sequence should run in.

        One with its kind of chain; else one without a chain; else the first. But a newcomer of a kind that no
        slot has, and whose answer need not come again, as it has no seed, takes the host where one without
        chain is free and such newcomers would have others wait for more than MOST_RESERVING of the time.
        """
        if alike := [slot for slot in free if self._configs[slot] == sequence.device_sampler]:
            return alike[-1]
        plain = [slot for slot in free if self._configs[slot] is None]
        is_unknown = sequence.device_sampler not in self._configs.values()
        if sequence.may_take_host and plain and is_unknown and self._reserves_often():
            sequence.device_sampler = None
            return plain[-1]
        return (plain or free)[0]

    def _reserves_often(self) -> bool:
        time_s = perf_counter() - self._reserved_at
        return bool(self._seated) and self._last_s > MOST_RESERVING * time_s

    def seat(self, sequence: Sequence, generation: Sampled) -> bool:
        """Have a sequence's next rows sampled as it wants; True where there is now something to `reserve`."""
        slot = sequence.slot
        if self._seated.get(slot) is generation:
            return False
        sequence.may_take_host = False
        self._vacate(slot)
        chooser = generation.chooser
        if isinstance(chooser, DeviceChooser) and chooser.slot >= 0:
            self._vacate(chooser.slot)  # it gave way there, and nobody has come since
        changes = self._configs[slot] != sequence.device_sampler
        if changes:
            self._attach(slot, sequence)
        if sequence.device_sampler is not None:
            if not isinstance(chooser, DeviceChooser):
                chooser.close()
                chooser = DeviceChooser(
                    self._model, sequence.device_sampler, generation.request.sampling.seed
                )
                generation.chooser = chooser
            chooser.sit(slot)
        self._seated[slot] = generation
        return changes

    def reserve(self) -> None:
        """Make llama.cpp's graphs and buffers for what was attached."""
        started = perf_counter()
        self._model.reserve()
        self._reserved_at = perf_counter()
        self._last_s = self._reserved_at - started
        self.n_reserved += 1
        self.reserve_s += self._last_s

    def release(self, generation: Sampled) -> None:
        """A generation has ended: its slot's state is of no use to it."""
        for slot in [slot for slot, seated in self._seated.items() if seated is generation]:
            del self._seated[slot]

    def _vacate(self, slot: int) -> None:
        before = self._seated.pop(slot, None)
        if before is not None and isinstance(before.chooser, DeviceChooser):
            before.chooser.rise()

    def _attach(self, slot: int, sequence: Sequence) -> None:
        """A chain for a slot, and for as many empty ones as have this kind already.

        So a kind that many ask for is soon had without reserving, and few chains are idle: what they read is
        copied to the device in every step.
        """
        config = sequence.device_sampler
        if not self._model.attach(slot, None if config is None else make_chain(config, self._n_vocab, 0)):
            assert config is not None  # without a chain nothing is refused
            self._refused.add(config.samplers)
            config = sequence.device_sampler = None
        n_alike = sum(has == config for has in self._configs.values())
        self._configs[slot] = config
        unlike = [each for each, has in self._configs.items() if has != config and each not in self._seated]
        for each in unlike[:n_alike]:
            self._model.attach(each, None if config is None else make_chain(config, self._n_vocab, 0))
            self._configs[each] = config
