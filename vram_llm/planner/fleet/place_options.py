"""The places where one copy of a model could be loaded, with memory and speed by the analytic meter.

A place is a set of devices that holds the model, of which none can be left out. A model that fits no devices
whole has one place: the plan for all the devices that it may use, with the rest on the host. A model of
embeddings may also be on the host alone.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vram_llm.errors import BadPlan, DoesNotFit
from vram_llm.machine.assumed_speed import device_speed
from vram_llm.machine.types import Device, Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.companions import UnplacedCompanion, place_companions
from vram_llm.planner.context import resolve_context
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.fleet.load_time import load_time
from vram_llm.planner.fleet.room import budgets_of, machine_within, uses_of
from vram_llm.planner.memory.analytic_meter import AnalyticMeter, is_pipelined, on_devices
from vram_llm.planner.overhead import overhead_bytes
from vram_llm.planner.plan_model import plan_model
from vram_llm.planner.search.candidate import Candidate, analytic
from vram_llm.planner.search.min_memory_cut import LayerCuts, LayerRange
from vram_llm.planner.search.whole_layers import WholeLayerSearch
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import HOST, Context, SpeedEstimate, Workload

_MOST_SETS = 32  # sets of unlike devices that are tried; the smallest and fastest are first
_MOST_COUNTS = 2**16  # sets of unlike devices of which the smallest and fastest are looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOption:
    """A place for one copy of a model. Bytes and times are by id of the device, and "host"."""

    devices: tuple[str, ...]  # in the order they compute; empty: the host alone
    uses: Mapping[str, int]  # bytes, with overhead and companions
    request_s: float  # of a typical request: the expected prompt, and its answer
    tokens_per_s: float | None  # of one stream; None for embeddings
    throughput_tokens_per_s: float  # of all streams of typical requests, or of prompts for embeddings
    busy: Mapping[str, float]  # share of a step's time
    load_s: float
    load_basis: Source

    def renamed(self, names: Mapping[str, str]) -> "PlaceOption":
        """The same place on other devices; `names` has the new id of each."""
        return replace(
            self,
            devices=tuple(names[each] for each in self.devices),
            uses={names.get(each, each): n_bytes for each, n_bytes in self.uses.items()},
            busy={names.get(each, each): share for each, share in self.busy.items()},
        )


@dataclass(frozen=True, slots=True)
class _Rig:
    """Devices of the same kinds: the machine with them, and the context, meter and predictor there."""

    machine: Machine
    context: Context
    meter: AnalyticMeter
    predictor: Predictor


class PlaceFinder:
    """Finds places for one model on the devices that it may use."""

    def __init__(
        self,
        profile: ModelProfile,
        machine: Machine,
        workload: Workload,
        companions: Sequence[UnplacedCompanion] = (),
        *,
        may_leave_devices: bool = True,
    ) -> None:
        """`machine` has only the devices that the model may use; `companions` need a place too.

        `may_leave_devices`: a model of embeddings may be on the host although there are devices.
        """
        self._profile, self._machine, self._workload = profile, machine, workload
        self._companions = companions
        self._may_leave_devices = may_leave_devices
        self._budgets = budgets_of(machine, workload.reserve_bytes)
        self._rigs: dict[object, _Rig] = {}
        given = (workload.n_gpu_layers, workload.tensor_split, workload.overrides)
        wishes = any(each.wished_device is not None for each in companions)
        self._is_dictated = any(option is not None for option in given) or workload.from_disk or wishes

    def options(self, *, with_all: bool = False) -> tuple[PlaceOption, ...]:
        """All places; with `with_all`, also the split over all devices. Raises DoesNotFit, BadPlan."""
        found: list[PlaceOption] = []
        if not self._is_dictated:
            found = list(self._on_devices())
            if with_all and len(self._machine.devices) > 1:
                ids = [device.id for device in self._machine.devices]
                whole = self._spread(ids)
                found += [whole] if whole is not None else []
            is_encoder = (self._workload.pooling or self._profile.pooling) is not None
            may_leave = is_encoder and self._may_leave_devices
            if (may_leave or not self._machine.devices) and (on_host := self._on_host()) is not None:
                found.append(on_host)
        return tuple(found) or (self._last_resort(self._machine),)

    def within(self, budgets: Mapping[str, int]) -> PlaceOption | None:
        """The fastest place that takes no more than `budgets`; None if none is found."""
        budgets = {name: min(n_bytes, budgets[name]) for name, n_bytes in self._budgets.items()}
        if self._is_dictated:
            ids = [device.id for device in self._machine.devices]
            try:
                rig = machine_within(self._machine, ids, budgets, self._workload.reserve_bytes)
                return self._last_resort(rig)
            except (DoesNotFit, BadPlan):  # BadPlan: a companion's device has no room left
                return None
        ids, room = [], 0
        alone = [
            option
            for device in self._machine.devices
            if (option := self._whole([device.id], budgets)) is not None
        ]
        if alone:
            return min(alone, key=lambda option: option.request_s)
        for device in sorted(self._machine.devices, key=lambda device: -budgets[device.id]):
            ids.append(device.id)
            room += budgets[device.id]
            if len(ids) < 2 or room < self._profile.total_bytes:
                continue
            if (option := self._whole(ids, budgets)) is not None:
                return option
        return None

    def _on_devices(self) -> Iterator[PlaceOption]:
        """Options of whole layers, on sets of devices of which no subset holds the model."""
        classes = _classes(self._machine.devices, self._budgets)
        minimal: list[tuple[int, ...]] = []
        n_tried = 0
        for counts in _device_counts(classes, self._budgets, self._profile.total_bytes):
            if any(all(a <= b for a, b in zip(least, counts, strict=True)) for least in minimal):
                continue
            n_tried += 1
            if n_tried > _MOST_SETS:
                return
            ids = [device.id for alike, n in zip(classes, counts, strict=True) for device in alike[:n]]
            option = self._whole(ids, self._budgets)
            if option is None:
                continue
            minimal.append(counts)
            choices = (itertools.combinations(alike, n) for alike, n in zip(classes, counts, strict=True))
            for chosen in itertools.product(*choices):
                others = [device.id for group in chosen for device in group]
                yield option.renamed(dict(zip(ids, others, strict=True)))

    def _whole(self, ids: Sequence[str], budgets: Mapping[str, int]) -> PlaceOption | None:
        """The fastest place of all layers on these devices; None if they do not hold the model."""
        rig = self._rig(ids, budgets)
        meter, n_layers = rig.meter, self._profile.n_layers
        if len(ids) == 1:
            cuts = LayerCuts(meter, n_layers)
            if not cuts.holds_all(ids[0], 0):
                return None
            placement = cuts.placement([LayerRange(ids[0], 0, n_layers + 1)])
            found = Candidate(rig.context, placement, meter(placement))
        else:
            search = WholeLayerSearch(rig.machine, meter, rig.predictor, self._workload.objective, n_layers)
            whole = search.on_devices(0, None)
            if whole is None:
                return None
            found = whole
        return self._option(rig, found) if found.estimate.fits else None

    def _spread(self, ids: Sequence[str]) -> PlaceOption | None:
        """Layers on all of these devices, none much fuller than another; None if they do not fit."""
        rig = self._rig(ids, self._budgets)
        placement = LayerCuts(rig.meter, self._profile.n_layers).min_memory_placement(0)
        found = Candidate(rig.context, placement, rig.meter(placement))
        return self._option(rig, found) if found.estimate.fits else None

    def _on_host(self) -> PlaceOption | None:
        rig = self._rig((), self._budgets)
        placement = LayerCuts(rig.meter, self._profile.n_layers).placement([])
        found = Candidate(rig.context, placement, rig.meter(placement))
        return self._option(rig, found) if found.estimate.fits else None

    def _last_resort(self, machine: Machine) -> PlaceOption:
        """The plan for a machine, with layers or experts on the host if need be. Raises DoesNotFit."""
        companions, counted = place_companions(machine, self._companions, self._workload.reserve_bytes)
        plan = plan_model(self._profile, counted, self._workload, None, companions, compares=False)
        assert plan.speed is not None
        return self._with_figures(counted, plan.estimate, plan.speed, plan.context)

    def _rig(self, ids: Collection[str], budgets: Mapping[str, int]) -> _Rig:
        """The rig for some devices, whose meter has the given budgets."""
        kinds = frozenset(
            (device.kind, device.shares_host_memory) for device in self._machine.devices if device.id in ids
        )
        if self._companions:  # their places depend on the devices and on what is free there
            return self._made(ids, budgets)
        if kinds not in self._rigs:
            alike = [
                device.id
                for device in self._machine.devices
                if (device.kind, device.shares_host_memory) in kinds
            ]
            self._rigs[kinds] = self._made(alike, self._budgets)
        rig = self._rigs[kinds]
        some = on_devices(rig.meter, ids)
        left = {name: min(n_bytes, budgets[name]) for name, n_bytes in some.budgets.items()}
        return replace(rig, meter=some.with_budgets(left))

    def _made(self, ids: Collection[str], budgets: Mapping[str, int]) -> _Rig:
        machine = machine_within(self._machine, ids, budgets, self._workload.reserve_bytes)
        _, machine = place_companions(machine, self._companions, self._workload.reserve_bytes)
        context = resolve_context(self._profile, machine, self._workload)
        meter = analytic(self._profile, machine, self._workload, context)
        return _Rig(machine, context, meter, Predictor(self._profile, context, machine, self._workload))

    def _option(self, rig: _Rig, found: Candidate) -> PlaceOption:
        devices = rig.meter.devices.values()
        pipelined = is_pipelined(self._profile, found.context, devices, found.placement)
        speed = rig.predictor(found.placement, pipelined=pipelined)
        return self._with_figures(rig.machine, found.estimate, speed, found.context)

    def _with_figures(
        self, machine: Machine, estimate: Estimate, speed: SpeedEstimate, context: Context
    ) -> PlaceOption:
        """The option of an estimate; `machine` counts the companions, which may be on further devices."""
        weights = {use.id: use.weights_bytes + use.companion_bytes for use in estimate.devices}
        load = load_time(self._machine, self._profile.total_bytes, weights)
        request_s, throughput = request_figures(speed, is_pooled=context.pooling is not None)
        with_companions = {
            device.id: device.companion_bytes + overhead_bytes(device)
            for device in machine.devices
            if device.companion_bytes
        }
        uses = with_companions | uses_of(estimate)
        uses[HOST] += self._workload.serving.slots_ram_bytes or 0
        return PlaceOption(
            devices=tuple(device_id for device_id in uses if device_id != HOST),
            uses=uses,
            request_s=request_s,
            tokens_per_s=None if context.pooling is not None else speed.tokens_per_s,
            throughput_tokens_per_s=throughput,
            busy={each.id: each.share for each in speed.devices},
            load_s=load.seconds,
            load_basis=load.basis,
        )


def request_figures(speed: SpeedEstimate, *, is_pooled: bool) -> tuple[float, float]:
    """Seconds of a typical request alone, and tokens per second of all streams.

    A request has the predicted prompt and Workload.DEFAULT_ANSWER tokens; for embeddings only the prompt, and
    the tokens are the prompt's.
    """
    assert speed.prompt_s is not None
    if is_pooled:
        return speed.prompt_s, speed.prompt_tokens / speed.prompt_s
    answer = Workload.DEFAULT_ANSWER
    streams_step_s = speed.streams_step_s or speed.step_s
    # prompts of other requests are computed one after the other, answers of all streams at the same time
    round_s = speed.streams * speed.prompt_s + answer * streams_step_s
    return speed.prompt_s + answer * speed.step_s, speed.streams * answer / round_s


def equal_devices(machine: Machine, budgets: Mapping[str, int]) -> tuple[frozenset[str], ...]:
    """Groups of devices of equal memory and speed, by their ids."""
    groups = _classes(machine.devices, budgets)
    return tuple(frozenset(device.id for device in alike) for alike in groups if len(alike) > 1)


def _classes(devices: Sequence[Device], budgets: Mapping[str, int]) -> list[list[Device]]:
    """The devices, grouped by equal memory and speed; the fastest group is first."""
    alike: dict[tuple[object, ...], list[Device]] = {}
    for device in devices:
        key = (
            device.kind, device.name if device.endpoint is None else "", budgets[device.id],
            device.alignment_bytes, device.row_padding, device.overhead, device.speed, device.link,
            device.shares_host_memory, device.set_aside_bytes,
        )  # fmt: skip
        alike.setdefault(key, []).append(device)
    return sorted(alike.values(), key=lambda group: -_reads_per_s(group[0]))


def _device_counts(
    classes: Sequence[Sequence[Device]], budgets: Mapping[str, int], least_bytes: int
) -> Iterator[tuple[int, ...]]:
    """Sets of devices, as counts for each class, with room for `least_bytes`: small and fast ones first."""
    rooms = [budgets[alike[0].id] for alike in classes]
    rates = [_reads_per_s(alike[0]) for alike in classes]
    ranges = [range(len(alike) + 1) for alike in classes]
    able = [
        counts
        for counts in itertools.islice(itertools.product(*ranges), _MOST_COUNTS)
        if any(counts) and sum(n * room for n, room in zip(counts, rooms, strict=True)) >= least_bytes
    ]

    def order(counts: tuple[int, ...]) -> tuple[int, float]:
        used = [(n, rate) for n, rate in zip(counts, rates, strict=True) if n]
        return sum(n for n, _ in used), sum(n / rate for n, rate in used)

    yield from sorted(able, key=order)


def _reads_per_s(device: Device) -> float:
    return device_speed(device).read_bytes_per_s.value
