"""Placements with moved parts of layers, compared with all possible ones."""

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import zoo
from tests.planner.cases import link, machine, profile_of, speed, with_parts, with_speeds
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.context import resolve_context
from vram_llm.planner.llama_split import placement_of
from vram_llm.planner.overrides import Override
from vram_llm.planner.search.candidate import analytic
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import HOST, Objective, Placement, Workload
from vram_llm.units import MIB

pytestmark = pytest.mark.process  # computes for many seconds

WORTH = 0.99  # a simpler placement stays if no other one takes less than this share of its time

# not a fixture: hypothesis would write its 66 kB out with every example
with tempfile.TemporaryDirectory() as folder:
    LLAMA = profile_of(zoo.llama(), Path(folder))


@dataclasses.dataclass(frozen=True)
class Case:
    profile: ModelProfile
    rig: Machine
    workload: Workload


@dataclasses.dataclass(frozen=True)
class MoveOption:
    """A move of a part of a layer: the seconds and the bytes that it adds; without an override, none."""

    seconds: float
    n_bytes: dict[str, int]
    override: Override | None


@st.composite
def cases(draw: st.DrawFn, *, n_layers: int, dense: bool) -> Case:
    """A small model, two cards and a host; the memory of the cards is ample, or just enough, or too small."""
    sizes = st.tuples(st.sampled_from([10, 50, 100]), st.sampled_from([0, 50, 100, 200]))
    layers = draw(st.lists(sizes, min_size=n_layers, max_size=n_layers))
    profile = with_parts(LLAMA, layers, dense=dense, outside_mib=draw(st.sampled_from([8, 100])))
    total_mib = sum(layer.bytes for layer in profile.layers) // MIB
    room = st.integers(1, 12).map(lambda tenths: tenths * total_mib // 10)
    rig = machine([(800 + draw(room)) * MIB for _ in range(2)])
    reads, overheads = st.sampled_from([50, 200, 400, 1000]), st.sampled_from([0, 50, 100])
    links = st.sampled_from([1, 12, 25])
    rig = with_speeds(rig, *(speed(draw(reads), layer_us=draw(overheads)) for _ in range(2)))
    devices = tuple(dataclasses.replace(device, link=link(draw(links))) for device in rig.devices)
    host = dataclasses.replace(rig.host, speed=speed(draw(st.sampled_from([10, 40, 100, 300])), layer_us=50))
    n_ctx = draw(st.sampled_from([512, 8192, 32768]))
    workload = Workload(
        n_ctx=n_ctx, parallel=1, reserve_bytes=0, pipeline_copies=False, expect_depth=min(n_ctx, 8192)
    )
    return Case(profile, dataclasses.replace(rig, devices=devices, host=host), workload)


@settings(max_examples=25, deadline=None)
@given(cases(n_layers=6, dense=False))
def test_no_placement_of_experts_on_two_cards_and_the_host_is_faster(case: Case) -> None:
    assert_fastest(case, (LayerPart.EXPERTS,))


@settings(max_examples=15, deadline=None)
@given(cases(n_layers=4, dense=True))
def test_no_placement_of_dense_networks_is_faster(case: Case) -> None:
    assert_fastest(case, (LayerPart.FFN, LayerPart.FFN_DOWN))


def assert_fastest(case: Case, parts: tuple[LayerPart, ...]) -> None:
    found = plan_placement(case.profile, case.rig, case.workload)
    assert found.estimate.fits
    brute = BruteForce(case, parts)
    least_s = brute.seconds_of(found.placement)
    # without overrides, a placement may be a little slower
    share = 1 - 1e-9 if found.placement.overrides else WORTH
    for placement, seconds in brute.faster_ones(least_s * share):
        assert brute.seconds_of(placement) == pytest.approx(seconds)
        assert not brute.meter(placement).fits, placement


class BruteForce:
    """Every placement of a case that is faster than one."""

    def __init__(self, case: Case, parts: tuple[LayerPart, ...]) -> None:
        profile, context = case.profile, resolve_context(case.profile, case.rig, case.workload)
        self.profile, self.parts, self.ids = profile, parts, [device.id for device in case.rig.devices]
        self.meter = analytic(profile, case.rig, case.workload, context)
        self.predictor = Predictor(profile, context, case.rig, case.workload)

    def seconds_of(self, placement: Placement) -> float:
        return self.predictor.objective_seconds(placement, Objective.LATENCY, pipelined=False)

    def faster_ones(self, most_s: float) -> Iterator[tuple[Placement, float]]:
        """Placements that take less than `most_s`, if their weights fit."""
        for order, assignment in self.assignments():
            plain = placement_of(order, assignment)
            base_s, homes = self.seconds_of(plain), plain.layer_devices()
            left = {each: self.meter.budgets[each] - self.empty_bytes(each) for each in self.ids}
            left |= {use.id: -use.over_bytes for use in self.meter(plain).devices}
            options = [self.options(layer, home) for layer, home in enumerate(homes)]
            for moves in itertools.product(*options if plain.device_order else []):
                seconds = base_s + sum(move.seconds for move in moves)
                if seconds < most_s and all(
                    sum(move.n_bytes.get(each, 0) for move in moves) <= left[each] for each in self.ids
                ):
                    overrides = tuple(move.override for move in moves if move.override is not None)
                    yield placement_of(order, assignment, overrides), seconds

    def empty_bytes(self, device_id: str) -> int:
        return self.meter.bytes_without_compute(device_id, 0, 0, False)

    def assignments(self) -> Iterator[tuple[list[str], list[int]]]:
        """All orders of all subsets of the devices, and the device of each item."""
        n_items = self.profile.n_layers + 1
        yield self.ids, [-1] * n_items
        for n_used in range(1, len(self.ids) + 1):
            for order in itertools.permutations(self.ids, n_used):
                for ends in itertools.combinations(range(n_items), n_used):
                    counts = [b - a for a, b in itertools.pairwise([*ends, n_items])]
                    on_devices = [index for index, count in enumerate(counts) for _ in range(count)]
                    rest = [device_id for device_id in self.ids if device_id not in order]
                    yield [*order, *rest], [-1] * ends[0] + on_devices

    def options(self, layer: int, home: str) -> list[MoveOption]:
        """The options of a layer: no move, or the move of one of its parts."""
        found = [MoveOption(0.0, {}, None)]
        for part, place in itertools.product(self.parts, (*self.ids, HOST)):
            tensors = self.profile.layers[layer].tensors_of(part)
            if tensors and place != home:
                seconds = self.predictor.moved_s(home, place, self.profile.layers[layer], tensors, 1)
                n_bytes = {
                    home: -self.meter.bytes_of(home, tensors),
                    place: self.meter.bytes_of(place, tensors),
                }
                found.append(MoveOption(seconds, n_bytes, Override.of(part, [layer], place)))
        return found
