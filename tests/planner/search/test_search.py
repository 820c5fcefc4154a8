import dataclasses
import itertools
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import zoo
from tests.planner.cases import DESKTOP, LAPTOP, machine, profile_of, resized
from vram_llm.errors import BadPlan, BadSplit, DoesNotFit
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.llama_split import device_of_layers, placement_of
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.search.candidate import uses_host
from vram_llm.planner.search.search import choose_placement
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import HOST, Objective, Plan, Workload
from vram_llm.units import GIB, MIB

pytestmark = pytest.mark.process  # computes for many seconds


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.nemotron_49b(), tmp_path_factory.mktemp("49b"), shard_bytes=40 * 10**9)


# not a fixture: hypothesis would write its 66 kB out with every example
with tempfile.TemporaryDirectory() as folder:
    LLAMA = profile_of(zoo.llama(), Path(folder))


@pytest.fixture(scope="module")
def plan_49b(nemotron: ModelProfile) -> Plan:
    return make_plan(nemotron, machine([LAPTOP, DESKTOP, DESKTOP]), Workload(n_ctx=2048))


@pytest.fixture
def llama() -> ModelProfile:
    return LLAMA


def test_the_49b_on_a_laptop_card_and_two_desktop_cards(plan_49b: Plan) -> None:
    plan = plan_49b
    assert plan.fits
    for use, free in zip(plan.estimate.devices, (LAPTOP, DESKTOP, DESKTOP), strict=True):
        assert use.total_bytes <= use.budget_bytes == free - 1024 * MIB
        parts = use.weights_bytes + use.context_bytes + use.compute_bytes + use.overhead_bytes
        assert use.total_bytes == parts
    placement = plan.placement
    assert sorted(placement.device_order) == ["GPU0", "GPU1", "GPU2"]
    assert sum(placement.layers_per_device) == 80
    assert sum(placement.tensor_split) == placement.n_gpu_layers == 81
    assignment = device_of_layers(80, placement.n_gpu_layers, placement.tensor_split)
    assert [assignment.count(i) for i in range(3)] == list(placement.tensor_split)


def test_the_split_by_free_memory_exceeds_the_devices_of_large_layers(plan_49b: Plan) -> None:
    by_free_memory = plan_49b.by_free_memory
    assert by_free_memory is not None
    assert by_free_memory.placement.tensor_split == (17, 32, 32)
    over = {use.id: use.over_bytes for use in by_free_memory.estimate.devices}
    assert over["GPU0"] > 2 * GIB
    assert over["GPU1"] > GIB
    assert over["GPU2"] < 0


def test_without_overrides_layers_that_do_not_fit_go_to_the_host_whole(nemotron: ModelProfile) -> None:
    plan = make_plan(nemotron, machine([DESKTOP]), Workload(n_ctx=2048, overrides=()), compares=False)
    placement = plan.placement
    assert placement.cpu_layers > 0
    assert placement.overrides == ()
    assert placement.n_gpu_layers == 81 - placement.cpu_layers
    one_less = Workload(n_ctx=2048, n_gpu_layers=placement.n_gpu_layers + 1, overrides=())
    with pytest.raises(DoesNotFit):
        make_plan(nemotron, machine([DESKTOP]), one_less)
    assert str(plan).startswith(f"Fits, with {placement.cpu_layers} of 80 layers on the CPU.")


def test_a_machine_without_devices(llama: ModelProfile) -> None:
    plan = make_plan(llama, machine([]), Workload(n_ctx=2048))
    assert plan.placement.output_device == HOST
    assert plan.placement.cpu_layers == 32
    assert plan.estimate.devices == ()
    assert plan.by_free_memory is None


def test_a_refusal_names_the_memory_the_missing_bytes_and_changes_that_fit(llama: ModelProfile) -> None:
    small = machine([10 * GIB], host_bytes=2 * GIB)
    with pytest.raises(DoesNotFit) as caught:
        make_plan(llama, small, Workload(n_ctx=131072))
    message = str(caught.value)
    assert re.search(r"with \d+ of 32 layers .* on the CPU, the computer's memory is .* short", message)
    assert caught.value.short_bytes > 4 * GIB
    first, *others = caught.value.suggestions
    assert str(first) in message
    plan = make_plan(llama, small, Workload(n_ctx=int(first.flags[1])), compares=False)
    assert (first.flags[0], first.n_on_cpu) == ("--n-ctx", 0)
    assert not uses_host(llama, plan.placement)
    longer = make_plan(llama, small, Workload(n_ctx=first.n_ctx + 256), compares=False)
    assert uses_host(llama, longer.placement)
    assert [way.n_on_cpu > 0 for way in others] == sorted(way.n_on_cpu > 0 for way in others)


def test_a_refusal_offers_a_smaller_kv_cache(llama: ModelProfile) -> None:
    workload = Workload(n_ctx=8192)
    plan = make_plan(llama, machine([64 * GIB]), workload, compares=False)
    needed = plan.estimate.devices[0].total_bytes
    tight = machine([needed + 1024 * MIB - 256 * MIB], host_bytes=4 * GIB)
    with pytest.raises(DoesNotFit, match="--kv-type q8_0"):
        make_plan(llama, tight, dataclasses.replace(workload, n_gpu_layers=33, overrides=()))


def test_a_refusal_without_a_change_that_fits(nemotron: ModelProfile) -> None:
    with pytest.raises(DoesNotFit, match="smaller quantisation or another card"):
        make_plan(nemotron, machine([LAPTOP], host_bytes=4 * GIB), Workload(n_ctx=2048))


def test_the_users_split_is_kept(nemotron: ModelProfile) -> None:
    workload = Workload(n_ctx=2048, tensor_split=TensorSplit((0.30, 0.40, 0.30)))
    plan = make_plan(nemotron, machine([40 * GIB] * 3), workload, compares=False)
    assert plan.placement.tensor_split == (25, 32, 24)


@pytest.mark.parametrize("split", [(1.0,), (1.0, 1.0, 1.0, 1.0)])
def test_a_split_of_the_wrong_length_is_refused(nemotron: ModelProfile, split: tuple[float, ...]) -> None:
    with pytest.raises(BadSplit, match=f"has {len(split)} shares and there are 3 devices"):
        make_plan(nemotron, machine([DESKTOP] * 3), Workload(tensor_split=TensorSplit(split)))


def test_shares_that_are_no_positive_numbers_are_refused(nemotron: ModelProfile) -> None:
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadSplit, match="shares are 0 or more"):
            make_plan(nemotron, machine([DESKTOP] * 2), Workload(tensor_split=TensorSplit((1.0, bad))))


def test_contexts_are_rounded_as_in_llama_cpp(llama: ModelProfile) -> None:
    context = resolve_context(llama, machine([]), Workload(n_ctx=1000))
    assert (context.n_ctx, context.n_batch, context.n_ubatch, context.n_threads) == (1024, 1024, 512, 4)
    assert resolve_context(llama, machine([]), Workload()).n_ctx == 8192


def test_a_context_beyond_training_is_noted(llama: ModelProfile) -> None:
    plan = make_plan(llama, machine([80 * GIB]), Workload(n_ctx=200_000, kv_type_k="q4_0", kv_type_v="q4_0"))
    assert any("longer than the 131,072 tokens" in note for note in plan.notes)


def test_a_kv_type_whose_block_does_not_divide_the_heads_is_refused(llama: ModelProfile) -> None:
    odd = dataclasses.replace(llama, head_k=80)
    with pytest.raises(BadPlan, match="heads of 80"):
        resolve_context(odd, machine([]), Workload(kv_type_k="q8_0"))


sizes = st.lists(st.integers(1, 400), min_size=1, max_size=6)
cards = st.lists(st.integers(0, 1500), min_size=1, max_size=3)


@settings(max_examples=50, deadline=None)
@given(layer_mib=sizes, card_mib=cards, outside_mib=st.integers(1, 300))
def test_the_search_equals_brute_force(layer_mib: list[int], card_mib: list[int], outside_mib: int) -> None:
    profile = resized(LLAMA, layer_mib, outside_mib)
    # the cards have 600 MiB more for other buffers than weights, so that the weights decide
    rig = machine([600 * MIB + mib * MIB for mib in card_mib], host_bytes=64 * GIB)
    workload = Workload(n_ctx=256, parallel=1, n_ubatch=32, reserve_bytes=0, objective=Objective.BALANCE)
    meter = AnalyticMeter(profile, resolve_context(profile, rig, workload), rig.devices, rig.host, 0)
    ids = [device.id for device in rig.devices]

    found = choose_placement(profile, rig, workload, meter)
    on_host = found.cpu_layers + (found.output_device == HOST)
    everywhere = (_fullest(meter, ids, len(layer_mib), n) for n in range(len(layer_mib) + 2))
    assert on_host == next(n for n, (share, _) in enumerate(everywhere) if share <= 1)
    share = max((use.total_bytes / use.budget_bytes for use in meter(found).devices), default=0.0)
    # the search spreads layers over devices, even if one device without pipeline copies were less full
    n_used = len(found.device_order)
    any_order, own_order = _fullest(meter, ids, len(layer_mib), on_host, n_used)
    assert share <= 1
    assert share <= own_order * 1.001 or share <= any_order * 1.001
    assert share <= any_order / 0.95 * 1.001


def _fullest(
    meter: AnalyticMeter, ids: list[str], n_layers: int, n_host: int, n_used: int = 0
) -> tuple[float, float]:
    """The share of the fullest device in the best cut, over all orders of the devices and in the given one.

    `n_host` items are on the host. Cuts use at least `n_used` devices.
    """
    n_items = n_layers + 1 - n_host
    shares: dict[tuple[str, ...], float] = {}
    for order in itertools.permutations(ids):
        shares[order] = float("inf")
        for cuts in itertools.combinations_with_replacement(range(n_items + 1), len(ids) - 1):
            counts = [b - a for a, b in itertools.pairwise([0, *cuts, n_items])]
            assignment = [-1] * n_host + [i for i, count in enumerate(counts) for _ in range(count)]
            used = meter(placement_of(order, assignment)).devices
            if len(used) < n_used:
                continue
            share = max((use.total_bytes / max(use.budget_bytes, 1) for use in used), default=0.0)
            shares[order] = min(shares[order], share)
    return min(shares.values()), shares[tuple(ids)]


@settings(max_examples=60, deadline=None)
@given(
    free_gib=st.lists(st.floats(0.5, 80), min_size=0, max_size=5),
    n_ctx=st.integers(1, 65536),
    parallel=st.integers(1, 32),
    n_gpu_layers=st.none() | st.integers(-1, 40),
    host_gib=st.integers(1, 64),
)
def test_a_plan_is_never_over_budget(
    free_gib: list[float],
    n_ctx: int,
    parallel: int,
    n_gpu_layers: int | None,
    host_gib: int,
) -> None:
    rig = machine([int(gib * GIB) for gib in free_gib], host_bytes=host_gib * GIB)
    workload = Workload(n_ctx=n_ctx, parallel=parallel, n_gpu_layers=n_gpu_layers)
    try:
        plan = make_plan(LLAMA, rig, workload, compares=False)
    except DoesNotFit:
        return
    assert all(use.total_bytes <= use.budget_bytes for use in plan.estimate.devices)
    assert plan.estimate.host.total_bytes <= plan.estimate.host.budget_bytes
    assert sum(plan.placement.layers_per_device) + plan.placement.cpu_layers == 32


def test_a_plan_is_equal_after_json(plan_49b: Plan) -> None:
    from vram_llm.planner.export.formats import from_json, to_json

    assert from_json(to_json(plan_49b), "it") == plan_49b
