import dataclasses
from typing import Any

import pytest

from tests.planner.saved import local
from vram_llm.machine.backend_devices import BackendDevice, Backends, SetAside, join
from vram_llm.machine.types import Device, DeviceKind, Host
from vram_llm.units import GIB

HOST = Host(name="box", cores=8, total_bytes=64 * GIB, available_bytes=10 * GIB)
RADEON = "AMD Radeon RX 7900 XTX (RADV NAVI31)"


def row(registry: str, number: int, bus: int | None, **other: Any) -> BackendDevice:
    """A device as a back end lists it."""
    given: dict[str, Any] = {"description": RADEON, "alignment_bytes": 64, "is_integrated": False} | other
    return BackendDevice(
        registry=registry, name=f"{registry}{number}", total_bytes=24 * GIB, free_bytes=20 * GIB,
        pci_bus_id=None if bus is None else f"0000:0{bus}:00.0", **given,
    )  # fmt: skip


def listed(*rows: BackendDevice, built: tuple[str, ...] = ()) -> Backends:
    return Backends(built=("CPU", *(row.registry for row in rows), *built), devices=rows)


@pytest.mark.parametrize(
    ("cards", "backends", "found"),
    [
        # NVML's numbers stay, whatever order CUDA has
        (
            [local(0), local(1)],
            listed(row("CUDA", 0, 1), row("CUDA", 1, 0)),
            [("GPU0", "cuda", "CUDA1"), ("GPU1", "cuda", "CUDA0")],
        ),
        # a build for Vulkan drives NVIDIA cards too
        ([local(0)], listed(row("Vulkan", 0, 0)), [("GPU0", "vulkan", "Vulkan0")]),
        # the back end made for the card goes first where several drive it
        ([local(0)], listed(row("Vulkan", 0, 0), row("CUDA", 0, 0)), [("GPU0", "cuda", "CUDA0")]),
        # cards without NVML come after
        (
            [local(2)],
            listed(row("CUDA", 0, 2), row("ROCm", 0, 5), row("Vulkan", 0, 2), row("Vulkan", 1, 5)),
            [("GPU2", "cuda", "CUDA0"), ("GPU3", "rocm", "ROCm0")],
        ),
        # several without an address are several
        (
            [],
            listed(row("SYCL", 0, None), row("SYCL", 1, None)),
            [("GPU0", "sycl", "SYCL0"), ("GPU1", "sycl", "SYCL1")],
        ),
        ([local(0)], Backends(is_known=False), [("GPU0", "cuda", None)]),
        ([local(0)], Backends(built=("CPU",)), [("GPU0", "cuda", None)]),
        ([local(0), local(1)], listed(row("CUDA", 0, 1)), [("GPU1", "cuda", "CUDA0")]),
    ],
)
def test_which_devices_there_are(
    cards: list[Device], backends: Backends, found: list[tuple[str, str, str | None]]
) -> None:
    devices = join(cards, (), backends, HOST).devices
    assert [(device.id, device.kind.value, device.ggml_name) for device in devices] == found


def test_a_card_driven_by_vulkan_keeps_what_nvml_says_and_takes_vulkans_buffers() -> None:
    card = dataclasses.replace(local(0), row_padding=512)
    (device,) = join([card], (), listed(row("Vulkan", 0, 0)), HOST).devices
    assert (device.uuid, device.name, device.free_bytes) == (card.uuid, card.name, card.free_bytes)
    assert (device.alignment_bytes, device.row_padding) == (64, 0)


def test_a_hidden_card_is_not_found_through_another_back_end() -> None:
    found = join([local(1)], [local(0)], listed(row("CUDA", 0, 1), row("Vulkan", 0, 0)), HOST)
    assert [device.id for device in found.devices] == ["GPU1"]


@pytest.mark.parametrize(
    ("cards", "backends", "note"),
    [
        ([local(0)], Backends(built=("CPU",)), 'CMAKE_ARGS="-DGGML_CUDA=ON -DGGML_RPC=ON" pip install '),
        ([local(0)], Backends(built=("CUDA",)), "CUDA_VISIBLE_DEVICES hides it, or the build leaves out"),
        ([], listed(row("CANN", 0, 3)), "its back end, CANN, is unknown"),
        (
            [],
            listed(row("Vulkan", 0, 3, is_integrated=True)),
            "plans take its bytes and the host's from one pool",
        ),
        (
            [],
            listed(row("Vulkan", 0, None, description="llvmpipe (LLVM 15)")),
            "plans take its bytes and the host's from one pool",
        ),
    ],
)
def test_what_is_said_of_a_device(cards: list[Device], backends: Backends, note: str) -> None:
    (found,) = join(cards, (), backends, HOST).notes
    assert note in found


def test_memory_that_is_the_hosts_is_no_more_than_the_host_has() -> None:
    (device,) = join((), (), listed(row("MTL", 0, None)), HOST).devices
    assert (device.kind, device.free_bytes) == (DeviceKind.METAL, 10 * GIB)
    assert (device.shares_host_memory, device.set_aside_bytes) == (True, 0)


def test_a_card_that_ggml_calls_integrated_shares_the_hosts_memory() -> None:
    """NVML and ggml's CUDA back end on GB10."""
    found = join([local(0)], (), listed(row("CUDA", 0, 0, is_integrated=True)), HOST)
    assert [device.shares_host_memory for device in found.devices] == [True]
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("registry", "set_aside_gib", "free_gib", "own_gib"),
    [
        ("Vulkan", 0.5, 10.5, 0.5),  # 24 GiB in all: what is set aside, and half of the host's
        ("Vulkan", 16, 20, 16),
        ("ROCm", 32, 20, 20),  # ROCm reports only what is set aside
        ("ROCm", 0.5, 10, 0),  # or only the host's
    ],
)
def test_memory_that_is_set_aside_for_graphics(
    registry: str, set_aside_gib: float, free_gib: float, own_gib: float
) -> None:
    own = SetAside(int(set_aside_gib * GIB), int(set_aside_gib * GIB))
    graphics = listed(row(registry, 0, 3, is_integrated=True))
    (device,) = join((), (), graphics, HOST, {"0000:03:00.0": own}).devices
    assert device.free_bytes == free_gib * GIB
    assert device.set_aside_bytes == own_gib * GIB
