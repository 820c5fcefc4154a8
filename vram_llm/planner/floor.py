"""The memory floor: the least memory in which a model runs, and what each step towards it costs.

The first step has everything on the cards. Each further step keeps the changes before it: one sequence, small
micro-batches, no pipeline copies, a KV cache as q8_0, then weights on the host (experts, and the feed-forward
matrices of dense layers; of as many layers as the host has memory for), half of the layers on the host, and
all of them. With the weights on the host, attention and the KV cache are all that the cards hold. Tables by
context and KV type have the memory of everything on the cards and of that floor.

Layers are on the fewest cards that hold them (fewest_cards.py), the fastest first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vram_llm.errors import BadPlan
from vram_llm.machine.types import Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.context import can_quantize_cache, resolve_context
from vram_llm.planner.fewest_cards import on_fewest_devices
from vram_llm.planner.llama_split import placement_flags, placement_of
from vram_llm.planner.overrides import Override
from vram_llm.planner.search.candidate import Candidate, analytic, expected_speed
from vram_llm.planner.search.largest_context import last_holding
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import HOST, Context, Meter, MeterFor, Placement, Workload
from vram_llm.units import typed_count

KV_TYPES = ("f16", "q8_0", "q4_0")
_SMALLEST_CTX = 4096
_SMALL_UBATCH = 128
_ON_CPU = " on the CPU"
_NOTICEABLE_BYTES = 2**20  # a step that saves less is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorRow:
    """One way to run the model, its memory on this machine, and its speed."""

    name: str
    flags: tuple[str, ...]  # options of `plan` and `serve` that ask for it
    n_ctx: int
    kv_type: str
    vram_bytes: int  # on all cards and workers, with the driver's overhead
    ram_bytes: int
    cpu_layers: int
    fits: bool
    short_vram_bytes: int  # missing on the devices
    short_ram_bytes: int  # missing on the host
    tokens_per_s: float | None  # of one stream; None if it does not fit
    prompt_tokens_per_s: float | None
    basis: Source | None  # of `tokens_per_s`
    method: str
    saved_bytes: int | None = None  # less VRAM than the step before; without cards, less RAM
    cost: float | None = None  # share of the tokens per second of the step before; below 0: it is faster


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFloor:
    """The steps to the floor at one context, and the memory by context and KV type."""

    model: str
    quantization: str
    total_bytes: int
    has_cards: bool
    steps: tuple[FloorRow, ...]  # each with the changes of those before
    on_cards: tuple[FloorRow, ...]  # everything on the cards, one sequence; by context, then KV type
    least: tuple[FloorRow, ...]  # experts or feed-forward weights on the host, small micro-batches
    notes: tuple[str, ...] = ()

    @property
    def floor(self) -> FloorRow | None:
        """The last step that fits, with all layers on the cards if such a step fits."""
        fitting = [step for step in self.steps if step.fits]
        whole = [step for step in fitting if not step.cpu_layers]
        return next(reversed(whole or fitting), None)


def memory_floor(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None = None
) -> MemoryFloor:
    """The floor of `profile` on `machine`; the steps are at `workload`'s context, or at 8k.

    The exact meter measures the steps, the analytic meter the tables. Raises BadPlan if the workload dictates
    a placement.
    """
    if workload.tensor_split or workload.overrides or workload.n_gpu_layers is not None:
        raise BadPlan("the memory floor places the model itself: leave the options of the split out")
    ways = _Ways(profile, machine, workload)
    steps = list(_with_savings(ways.steps(exact), bool(machine.devices)))
    contexts = list(_contexts(profile))
    return MemoryFloor(
        model=profile.name,
        quantization=profile.quantization,
        total_bytes=profile.total_bytes,
        has_cards=bool(machine.devices),
        steps=tuple(steps),
        on_cards=tuple(ways.by_context(contexts, on_host=False)),
        least=tuple(ways.by_context(contexts, on_host=True)) if machine.devices else (),
    )


class _Ways:
    """Ways to run one model on one machine."""

    def __init__(self, profile: ModelProfile, machine: Machine, base: Workload) -> None:
        self._profile, self._machine = profile, machine
        self._n_ubatch = base.n_ubatch or Workload.DEFAULT_N_UBATCH
        is_offloaded = bool(base.op_offload)  # it takes memory, so the floor has it only if it is asked for
        self._base = replace(base, largest_ctx=False, overrides=(), op_offload=is_offloaded)

    def steps(self, exact: MeterFor | None) -> Iterator[FloorRow]:
        """The steps, all of them, also those that save nothing."""
        profile, workload = self._profile, self._base
        yield self._row(
            "everything on the cards" if self._machine.devices else "as asked for", workload, 0, exact
        )
        if workload.parallel > 1:
            workload = replace(workload, parallel=1)
            yield self._row("one sequence", workload, 0, exact)
        if self._n_ubatch > _SMALL_UBATCH:
            workload = replace(workload, n_ubatch=_SMALL_UBATCH)
            yield self._row(f"micro-batches of {_SMALL_UBATCH}", workload, 0, exact)
        if workload.pipeline_copies and len(self._machine.devices) > 1:
            workload = replace(workload, pipeline_copies=False)
            yield self._row("no pipeline copies", workload, 0, exact)
        if can_quantize_cache(profile, workload):
            workload = replace(workload, kv_type_k="q8_0", kv_type_v="q8_0")
            yield self._row("KV cache as q8_0", workload, 0, exact)
        if not self._machine.devices:
            return
        for move in _moves(profile):
            row = self._row(move.name, replace(workload, overrides=move.overrides), 0, exact)
            if row.short_ram_bytes and (part := self._of_some_layers(workload, move, exact)) is not None:
                yield part
            workload = replace(workload, overrides=move.overrides)
            yield row
        half = profile.n_layers // 2
        if half:
            yield self._row(f"{half} of {profile.n_layers} layers on the CPU", workload, half, exact)
        on_host = replace(workload, overrides=(), n_gpu_layers=0)
        yield self._row("everything on the CPU", on_host, profile.n_layers + 1, exact)

    def by_context(self, contexts: Sequence[int], *, on_host: bool) -> Iterator[FloorRow]:
        """A row for each context and KV type, with the speed at the end of the context."""
        moves = list(_moves(self._profile))
        name = moves[-1].name if on_host and moves else "everything on the cards"
        for n_ctx in contexts:
            small = replace(self._base, n_ctx=n_ctx, parallel=1, pipeline_copies=False, expect_depth=n_ctx)
            if on_host:
                overrides = moves[-1].overrides if moves else ()
                small = replace(small, n_ubatch=min(self._n_ubatch, _SMALL_UBATCH), overrides=overrides)
            for kv_type in KV_TYPES:
                quantized = kv_type != "f16"
                plain = replace(small, kv_type_k="f16", kv_type_v="f16")
                if quantized and not can_quantize_cache(self._profile, plain):
                    continue
                yield self._row(name, replace(small, kv_type_k=kv_type, kv_type_v=kv_type), 0, None)

    def _of_some_layers(self, workload: Workload, move: "_Move", exact: MeterFor | None) -> FloorRow | None:
        """A move of the first layers alone, as many as the host has memory for; None if it has for none."""
        layers = [
            layer.index
            for layer in self._profile.layers
            if not layer.is_draft and layer.tensors_of(move.part)
        ]

        def row(count: int, meter: MeterFor | None) -> FloorRow:
            some = (*(workload.overrides or ()), Override.of(move.part, layers[:count], HOST))
            name = f"{move.name.removesuffix(_ON_CPU)} of {count} layers{_ON_CPU}"
            return self._row(name, replace(workload, overrides=some), 0, meter)

        count = last_holding(0, len(layers), lambda count: not row(count, None).short_ram_bytes)
        return row(count, exact) if count else None

    def _row(self, name: str, workload: Workload, n_host: int, exact: MeterFor | None) -> FloorRow:
        """A way with the first `n_host` items on the host; the output is the item after the last layer."""
        profile, machine = self._profile, self._machine
        context = resolve_context(profile, machine, workload)
        meter = analytic(profile, machine, workload, context)
        placement = self._placement(workload, context, n_host, meter)
        estimate = (meter if exact is None else exact(context))(placement)
        short_ram_bytes = max(estimate.host.over_bytes, 0)
        speed = None
        if estimate.fits:
            speed = expected_speed(profile, machine, workload, Candidate(context, placement, estimate))
        return FloorRow(
            name=name,
            flags=self._flags(workload, context, placement),
            n_ctx=context.n_ctx,
            kv_type=workload.kv_type_k,
            vram_bytes=sum(use.total_bytes for use in estimate.devices),
            ram_bytes=estimate.host.total_bytes,
            cpu_layers=placement.cpu_layers,
            fits=estimate.fits,
            short_vram_bytes=estimate.short_bytes - short_ram_bytes,
            short_ram_bytes=short_ram_bytes,
            tokens_per_s=None if speed is None else speed.tokens_per_s,
            prompt_tokens_per_s=None if speed is None else speed.prompt_tokens_per_s,
            basis=None if speed is None else speed.basis,
            method=estimate.method,
        )

    def _placement(self, workload: Workload, context: Context, n_host: int, meter: Meter) -> Placement:
        """The placement on the fewest devices, the fastest first."""
        n_items = self._profile.n_layers + 1
        if n_host == n_items or not self._machine.devices:
            return placement_of((), [-1] * n_items)
        predictor = Predictor(self._profile, context, self._machine, workload)
        seconds = {
            device.id: predictor.decode_costs(device.id, 1).run(0, n_items)
            for device in self._machine.devices
        }
        ids = sorted(seconds, key=seconds.__getitem__)
        return on_fewest_devices(ids, n_items, n_host, workload.overrides or (), meter)

    def _flags(self, workload: Workload, context: Context, placement: Placement) -> tuple[str, ...]:
        """The options that ask for this way, in addition to the user's."""
        base, flags = self._base, ["--n-ctx", typed_count(context.n_ctx)]
        if workload.parallel != base.parallel:
            flags += ["--parallel", str(workload.parallel)]
        if workload.n_ubatch != base.n_ubatch:
            flags += ["--n-ubatch", str(workload.n_ubatch)]
        if workload.pipeline_copies != base.pipeline_copies:
            flags.append("--no-pipeline")
        if workload.kv_type_k != base.kv_type_k:
            flags += ["--kv-type", workload.kv_type_k]
        if not base.op_offload and (placement.overrides or placement.cpu_layers):
            flags.append("--no-op-offload")
        return (*flags, *(placement_flags(placement) if self._machine.devices else ()))


def _with_savings(steps: Iterator[FloorRow], has_cards: bool) -> Iterator[FloorRow]:
    """The steps that save memory, each with what it saves and costs against the one before."""
    before: FloorRow | None = None
    for step in steps:
        if before is None:
            before = step
            yield step
            continue
        saved = before.vram_bytes - step.vram_bytes if has_cards else before.ram_bytes - step.ram_bytes
        if saved < _NOTICEABLE_BYTES:
            continue
        cost = None
        if before.tokens_per_s is not None and step.tokens_per_s is not None:
            cost = 1 - step.tokens_per_s / before.tokens_per_s
        before = replace(step, saved_bytes=saved, cost=cost)
        yield before


class _Move(NamedTuple):
    """Weights to put on the host."""

    name: str
    part: LayerPart
    overrides: tuple[Override, ...]  # with those of the moves before


def _moves(profile: ModelProfile) -> Iterator[_Move]:
    """Weights to put on the host, the cheapest per byte first."""
    layers = [layer for layer in profile.layers if not layer.is_draft]
    overrides: tuple[Override, ...] = ()
    if any(layer.tensors_of(LayerPart.EXPERTS) for layer in layers):
        overrides = (Override.of_all(LayerPart.EXPERTS, HOST),)
        yield _Move(f"experts{_ON_CPU}", LayerPart.EXPERTS, overrides)
    if any(layer.tensors_of(LayerPart.FFN) for layer in layers):
        if not overrides:
            down = Override.of_all(LayerPart.FFN_DOWN, HOST)
            yield _Move(f"ffn_down{_ON_CPU}", LayerPart.FFN_DOWN, (down,))
        yield _Move(f"FFN{_ON_CPU}", LayerPart.FFN, (*overrides, Override.of_all(LayerPart.FFN, HOST)))


def _contexts(profile: ModelProfile) -> Iterator[int]:
    """4k, 8k, ... and the trained length."""
    trained = profile.context_length or Workload.DEFAULT_N_CTX
    n_ctx = min(_SMALLEST_CTX, trained)
    while n_ctx < trained:
        yield n_ctx
        n_ctx *= 2
    yield trained
