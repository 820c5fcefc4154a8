"""Devices that use the host's memory: one pool, counted once."""

import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import zoo
from tests.planner.cases import machine, profile_of
from vram_llm.errors import DoesNotFit
from vram_llm.machine.types import DeviceKind, Machine
from vram_llm.planner.companions import counting
from vram_llm.planner.context import resolve_context
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.types import HOST, Context, Meter, Workload
from vram_llm.units import GIB, MIB

WORKLOAD = Workload(n_ctx=4096, reserve_bytes=GIB)
ON_DEVICE = dataclasses.replace(WORKLOAD, n_gpu_layers=-1)

# not a fixture: hypothesis would write it out with every example
with tempfile.TemporaryDirectory() as folder:
    LLAMA = profile_of(zoo.llama(), Path(folder))


def unified(pool_bytes: int, most_bytes: int | None = None, set_aside_bytes: int = 0) -> Machine:
    """A computer of one pool, of which its graphics may use `most_bytes`, and what is set aside for them."""
    rig = machine([most_bytes or pool_bytes + set_aside_bytes], host_bytes=pool_bytes)
    return dataclasses.replace(
        rig,
        devices=tuple(
            dataclasses.replace(device, shares_host_memory=True, set_aside_bytes=set_aside_bytes)
            for device in rig.devices
        ),
    )


def taken(estimate: Estimate) -> int:
    """Bytes on the host and on the device."""
    return estimate.host.total_bytes + sum(use.total_bytes for use in estimate.devices)


def least_pool() -> int:
    """The smallest pool for LLAMA on the device, to 16 MiB."""
    low, high = 0, 64 * GIB
    while high - low > 16 * MIB:
        middle = (low + high) // 2
        if plan_placement(LLAMA, unified(middle), ON_DEVICE).estimate.fits:
            high = middle
        else:
            low = middle
    return high


def test_the_pool_is_counted_once() -> None:
    pool = least_pool()
    chosen = plan_placement(LLAMA, unified(pool), WORKLOAD)
    assert chosen.placement == plan_placement(LLAMA, unified(pool), ON_DEVICE).placement
    estimate = chosen.estimate
    assert pool - GIB - 16 * MIB <= taken(estimate) <= pool - GIB
    assert estimate.devices[0].shared_bytes == estimate.devices[0].total_bytes
    for use in (estimate.host, *estimate.devices):  # each has what the other leaves
        assert use.budget_bytes - use.total_bytes == pool - GIB - taken(estimate)


def test_a_refusal_names_the_pool_once() -> None:
    pool = least_pool() - 2 * GIB
    with pytest.raises(DoesNotFit) as caught:
        make_plan(LLAMA, unified(pool), ON_DEVICE)
    assert "the computer's memory is" in str(caught.value)
    assert "(GPU0) is" not in str(caught.value)
    assert (
        GIB < caught.value.short_bytes < 2 * GIB + 512 * MIB
    )  # without the driver's overhead on the host alone
    assert caught.value.host_is_short


def test_a_device_that_may_use_a_part_of_the_pool_leaves_weights_to_the_host() -> None:
    plan = plan_placement(LLAMA, unified(64 * GIB, 5 * GIB), WORKLOAD)
    assert {override.device for override in plan.placement.overrides} == {HOST}
    assert plan.estimate.devices[0].total_bytes <= 4 * GIB


def test_memory_set_aside_is_not_the_hosts() -> None:
    pool = least_pool()
    plan = plan_placement(LLAMA, unified(pool - 4 * GIB, set_aside_bytes=4 * GIB), ON_DEVICE)
    (use,) = plan.estimate.devices
    assert use.shared_bytes == use.total_bytes - 4 * GIB
    assert use.shared_bytes + plan.estimate.host.total_bytes <= pool - 5 * GIB


@pytest.mark.parametrize(
    ("kind", "is_mapped"),
    [(DeviceKind.CUDA, False), (DeviceKind.VULKAN, False), (DeviceKind.METAL, True)],
)
def test_which_integrated_devices_map_files(kind: DeviceKind, is_mapped: bool) -> None:
    rig = unified(64 * GIB)
    devices = tuple(dataclasses.replace(device, kind=kind) for device in rig.devices)
    context = resolve_context(LLAMA, dataclasses.replace(rig, devices=devices), WORKLOAD)
    assert context.use_mmap is is_mapped


@settings(max_examples=40, deadline=None)
@given(
    pool_mib=st.integers(4 * 1024, 16 * 1024),
    most_mib=st.none() | st.integers(1024, 16 * 1024),
    set_aside_mib=st.sampled_from([0, 512, 4096]),
)
def test_no_plan_takes_more_than_the_pool(pool_mib: int, most_mib: int | None, set_aside_mib: int) -> None:
    most = None if most_mib is None else most_mib * MIB
    rig = unified(pool_mib * MIB, most, set_aside_mib * MIB)

    def exact(context: Context) -> Meter:
        """Like the dry run, it knows no pool."""
        apart = (dataclasses.replace(device, shares_host_memory=False) for device in rig.devices)
        meter = AnalyticMeter(LLAMA, context, tuple(apart), rig.host, WORKLOAD.reserve_bytes)
        return counting(meter, LLAMA, rig)

    plan = plan_placement(LLAMA, rig, WORKLOAD, exact)
    if not plan.estimate.fits:
        return
    (shared,) = [max(use.total_bytes - set_aside_mib * MIB, 0) for use in plan.estimate.devices] or [0]
    assert plan.estimate.host.total_bytes + shared <= pool_mib * MIB - GIB
    for use in plan.estimate.devices:
        assert use.total_bytes <= (most or (pool_mib + set_aside_mib) * MIB) - GIB
