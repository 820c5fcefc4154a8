import dataclasses
from collections.abc import Sequence

import pytest

from tests.planner.saved import absent, local, remote, saved_plan
from vram_llm.errors import BadPlan, DoesNotFit
from vram_llm.machine.types import Device, Host, Machine, Source
from vram_llm.planner.recheck import check, device_fits, find_devices, worker_limits
from vram_llm.units import GIB, MIB

A, B = "10.0.0.1:50052", "10.0.0.2:50052"


def machine(devices: Sequence[Device], host_gib: float = 64) -> Machine:
    """A machine of these devices, nothing of it in use."""
    size = round(host_gib * GIB)
    return Machine(
        devices=tuple(devices), host=Host(name="here", cores=4, total_bytes=size, available_bytes=size)
    )


def with_free(device: Device, free_bytes: int) -> Device:
    """`device` with less of it free."""
    return dataclasses.replace(device, free_bytes=free_bytes)


def test_room_for_every_device_and_the_host() -> None:
    plan = saved_plan([local(0), local(1)], [2, 2])
    found = check(plan, machine([local(1), with_free(local(0), 5 * GIB)]), 0)
    assert [(fit.id, fit.needed_bytes, fit.budget_bytes) for fit in found] == [
        ("GPU0", 4 * GIB, 4 * GIB),
        ("GPU1", 4 * GIB, 23 * GIB),
        ("host", 2 * GIB, 63 * GIB),
    ]


@pytest.mark.parametrize(
    ("free_bytes", "host_gib", "said"),
    [
        ([5 * GIB - MIB, 24 * GIB], 64, ["(GPU0) is 1.00 MiB short"]),
        ([GIB // 2, 3 * GIB], 64, ["(GPU0) is 4.00 GiB short", "(GPU1) is 2.00 GiB short"]),
        ([24 * GIB, 24 * GIB], 2.5, ["the computer's memory is 512 MiB short"]),
    ],
)
def test_each_card_that_is_short_is_named(free_bytes: list[int], host_gib: float, said: list[str]) -> None:
    plan = saved_plan([local(0), local(1)], [2, 2])
    now = machine([with_free(local(i), free) for i, free in enumerate(free_bytes)], host_gib)
    with pytest.raises(DoesNotFit) as caught:
        check(plan, now, 0)
    assert all(part in str(caught.value) for part in said)
    assert str(caught.value).count("short") == len(said)


def test_a_device_that_shares_the_hosts_memory_is_counted_there() -> None:
    graphics = local(0, shares_host_memory=True)
    plan = saved_plan([graphics], [2])  # 4 GiB for the device, 2 for the host, 1 in reserve
    with pytest.raises(
        DoesNotFit, match=r"the computer's memory is 512 MiB short: 6\.00 GiB planned"
    ) as found:
        check(plan, machine([graphics], 6.5), 0)
    assert found.value.short_bytes == 512 * MIB
    with_own = machine([dataclasses.replace(graphics, set_aside_bytes=GIB)], 6.5)
    assert [fit.needed_bytes for fit in check(plan, with_own, 0)] == [4 * GIB, 5 * GIB]


def test_the_hosts_reserve_of_a_plan_without_devices_is_given() -> None:
    plan, now = saved_plan([], [], n_layers=4), machine([], 2.5)
    assert [fit.over_bytes for fit in check(plan, now, 0)] == [-GIB // 2]
    with pytest.raises(DoesNotFit, match="512 MiB short"):
        check(plan, now, GIB)


@pytest.mark.parametrize(
    ("planned", "here", "found"),
    [
        # cards by what they are, not by their place
        ([local(0), local(1)], [dataclasses.replace(local(1), id="GPU0"), local(0)], ["GPU-0", "GPU-1"]),
        ([local(0, uuid=None)], [local(1), local(0)], ["GPU-0"]),
        # a plan of an older version, whose ids were of CUDA's
        ([dataclasses.replace(local(1), id="CUDA0")], [local(0), local(1)], ["GPU-1"]),
        # a device without an address by llama.cpp's name for it
        (
            [local(0, uuid=None, pci_bus_id=None, ggml_name="Vulkan0")],
            [
                local(1, uuid="GPU-1", pci_bus_id=None, ggml_name="Vulkan1"),
                local(0, uuid="GPU-0", pci_bus_id=None, ggml_name="Vulkan0"),
            ],
            ["GPU-0"],
        ),
        # what-if cards by name, one after the other
        ([absent(0), absent(1)], [local(3), local(4)], ["GPU-3", "GPU-4"]),
        ([absent(0, name="RTX 4090")], [local(0), local(1, name="rtx 4090")], ["GPU-1"]),
        ([absent(0, name="RTX 3080 12GB")], [local(0, name="RTX 3080")], ["GPU-0"]),
        ([absent(0, name="24.0 GiB GPU")], [local(2)], ["GPU-2"]),
    ],
)
def test_which_device_is_meant(planned: list[Device], here: list[Device], found: list[str]) -> None:
    plan = saved_plan(planned, [2] * len(planned))
    matched = find_devices(plan, here)
    assert [matched[device.id].uuid for device in planned] == found


def test_workers_are_found_by_address_and_index() -> None:
    plan = saved_plan([remote(0, A), remote(1, A, 1)], [2, 2])
    here = [remote(0, B), remote(1, A, gib=3), remote(2, A, 1, gib=5)]
    assert {k: v.free_bytes // GIB for k, v in find_devices(plan, here).items()} == {"RPC0": 3, "RPC1": 5}


@pytest.mark.parametrize(
    ("planned", "here", "said"),
    [
        ([local(0)], [], "RTX 3090 Ti .GPU0, GPU-0, 0000:00:00.0. is not here; plan again"),
        ([local(0)], [local(0, uuid="GPU-9")], "is not here"),
        ([local(0)], [local(0, pci_bus_id="0000:09:00.0")], "any more, it is at 0000:09:00.0 now"),
        ([local(0, uuid=None, pci_bus_id=None)], [local(0, uuid=None, pci_bus_id=None)], "is not here"),
        ([remote(0, A)], [remote(0, B), local(0)], f"device 0 of worker {A} is not here"),
        ([remote(0, A, 1)], [remote(0, A)], f"device 1 of worker {A} is not here"),
        ([absent(0), absent(1)], [local(0)], "RTX 3090 Ti .GPU1. is not here"),
        ([absent(0)], [local(0, name="NVIDIA GeForce RTX 3090")], "is not here"),
        ([absent(0)], [remote(0, A, name="NVIDIA GeForce RTX 3090 Ti")], "is not here"),
    ],
)
def test_a_device_that_is_missing(planned: list[Device], here: list[Device], said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        device_fits(saved_plan(planned, [2] * len(planned)), machine(here), 0)


def test_a_device_without_layers_need_not_be_here() -> None:
    plan = saved_plan([local(0), local(1)], [4, 0])
    assert list(find_devices(plan, [local(0)])) == ["GPU0"]


def test_a_plan_that_names_a_device_it_does_not_describe() -> None:
    plan = saved_plan([local(0)], [4])
    with pytest.raises(BadPlan, match="not one of its devices"):
        find_devices(dataclasses.replace(plan, devices=()), [local(0)])


def test_a_limit_that_was_given_stays() -> None:
    limited = remote(0, A, gib=3, memory_source=Source.GIVEN)
    plan = saved_plan([limited, remote(1, B), remote(2, "10.0.0.3:1")], [2, 2, 0])
    assert worker_limits(plan) == {A: 3 * GIB, B: None}
