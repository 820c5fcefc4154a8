import dataclasses
from typing import Any

import pytest

from tests.planner.saved import local
from vram_llm.machine.backend_devices import BackendDevice, Backends, DedicatedMemory, join_devices
from vram_llm.machine.types import Device, DeviceKind, Host
from vram_llm.units import GIB

HOST = Host(name="box", cores=8, total_bytes=64 * GIB, available_bytes=10 * GIB)
RADEON = "AMD Radeon RX 7900 XTX (RADV NAVI31)"


def backend_device(registry: str, number: int, bus: int | None, **other: Any) -> BackendDevice:
    """A device as a back end lists it."""
    fields: dict[str, Any] = {"description": RADEON, "alignment_bytes": 64, "is_integrated": False} | other
    return BackendDevice(
        registry=registry, name=f"{registry}{number}", total_bytes=24 * GIB, free_bytes=20 * GIB,
        pci_bus_id=None if bus is None else f"0000:0{bus}:00.0", **fields,
    )  # fmt: skip


def backends_with(*devices: BackendDevice) -> Backends:
    """A build with the back ends of `devices`, which lists them."""
    return Backends(built=("CPU", *(device.registry for device in devices)), devices=devices)


@pytest.mark.parametrize(
    ("cards", "backends", "found"),
    [
        # cards keep NVML's numbers, although CUDA has another order
        (
            [local(0), local(1)],
            backends_with(backend_device("CUDA", 0, 1), backend_device("CUDA", 1, 0)),
            [("GPU0", "cuda", "CUDA1"), ("GPU1", "cuda", "CUDA0")],
        ),
        # a build for Vulkan drives NVIDIA cards too
        ([local(0)], backends_with(backend_device("Vulkan", 0, 0)), [("GPU0", "vulkan", "Vulkan0")]),
        # if several back ends drive a card, its maker's is preferred
        (
            [local(0)],
            backends_with(backend_device("Vulkan", 0, 0), backend_device("CUDA", 0, 0)),
            [("GPU0", "cuda", "CUDA0")],
        ),
        # cards that NVML does not list follow
        (
            [local(2)],
            backends_with(
                backend_device("CUDA", 0, 2),
                backend_device("ROCm", 0, 5),
                backend_device("Vulkan", 0, 2),
                backend_device("Vulkan", 1, 5),
            ),
            [("GPU2", "cuda", "CUDA0"), ("GPU3", "rocm", "ROCm0")],
        ),
        # devices without a bus id are different devices
        (
            [],
            backends_with(backend_device("SYCL", 0, None), backend_device("SYCL", 1, None)),
            [("GPU0", "sycl", "SYCL0"), ("GPU1", "sycl", "SYCL1")],
        ),
        ([local(0)], Backends(is_known=False), [("GPU0", "cuda", None)]),
        ([local(0)], Backends(built=("CPU",)), [("GPU0", "cuda", None)]),
        ([local(0), local(1)], backends_with(backend_device("CUDA", 0, 1)), [("GPU1", "cuda", "CUDA0")]),
    ],
)
def test_the_devices_to_plan_for(
    cards: list[Device], backends: Backends, found: list[tuple[str, str, str | None]]
) -> None:
    devices = join_devices(cards, (), backends, HOST).devices
    assert [(device.id, device.kind.value, device.ggml_name) for device in devices] == found


def test_a_card_driven_by_vulkan_has_nvmls_facts_and_vulkans_buffer_rules() -> None:
    card = dataclasses.replace(local(0), row_padding=512)
    (device,) = join_devices([card], (), backends_with(backend_device("Vulkan", 0, 0)), HOST).devices
    assert (device.uuid, device.name, device.free_bytes) == (card.uuid, card.name, card.free_bytes)
    assert (device.alignment_bytes, device.row_padding) == (64, 0)


def test_a_hidden_card_is_not_found_through_another_back_end() -> None:
    found = join_devices(
        [local(1)],
        [local(0)],
        backends_with(backend_device("CUDA", 0, 1), backend_device("Vulkan", 0, 0)),
        HOST,
    )
    assert [device.id for device in found.devices] == ["GPU1"]


@pytest.mark.parametrize(
    ("cards", "backends", "note"),
    [
        ([local(0)], Backends(built=("CPU",)), 'CMAKE_ARGS="-DGGML_CUDA=ON -DGGML_RPC=ON" pip install '),
        ([local(0)], Backends(built=("CUDA",)), "CUDA_VISIBLE_DEVICES hides it, or the build leaves out"),
        ([], backends_with(backend_device("CANN", 0, 3)), "its back end, CANN, is unknown"),
        (
            [],
            backends_with(backend_device("Vulkan", 0, 3, is_integrated=True)),
            "plans take its bytes and the host's from one pool",
        ),
        (
            [],
            backends_with(backend_device("Vulkan", 0, None, description="llvmpipe (LLVM 15)")),
            "plans take its bytes and the host's from one pool",
        ),
    ],
)
def test_notes_on_devices(cards: list[Device], backends: Backends, note: str) -> None:
    (found,) = join_devices(cards, (), backends, HOST).notes
    assert note in found


def test_shared_memory_is_limited_to_the_hosts_available_memory() -> None:
    (device,) = join_devices((), (), backends_with(backend_device("MTL", 0, None)), HOST).devices
    assert (device.kind, device.free_bytes) == (DeviceKind.METAL, 10 * GIB)
    assert (device.shares_host_memory, device.set_aside_bytes) == (True, 0)


def test_a_card_that_ggml_calls_integrated_shares_the_hosts_memory() -> None:
    """NVML and ggml's CUDA back end on GB10."""
    found = join_devices(
        [local(0)], (), backends_with(backend_device("CUDA", 0, 0, is_integrated=True)), HOST
    )
    assert [device.shares_host_memory for device in found.devices] == [True]
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("registry", "dedicated_gib", "free_gib", "free_dedicated_gib"),
    [
        ("Vulkan", 0.5, 10.5, 0.5),  # Vulkan reports the sum of dedicated and host memory
        ("Vulkan", 16, 20, 16),
        ("ROCm", 32, 20, 20),  # ROCm reports dedicated memory alone
        ("ROCm", 0.5, 10, 0),  # or the host's memory alone
    ],
)
def test_dedicated_memory_of_integrated_graphics(
    registry: str, dedicated_gib: float, free_gib: float, free_dedicated_gib: float
) -> None:
    dedicated = DedicatedMemory(int(dedicated_gib * GIB), int(dedicated_gib * GIB))
    backends = backends_with(backend_device(registry, 0, 3, is_integrated=True))
    (device,) = join_devices((), (), backends, HOST, {"0000:03:00.0": dedicated}).devices
    assert device.free_bytes == free_gib * GIB
    assert device.set_aside_bytes == free_dedicated_gib * GIB


@pytest.mark.parametrize(
    ("built", "libraries", "environ", "uses_nccl"),
    [
        (("CUDA", "CPU"), ("libcudart.so.12", "libnccl.so.2.27.5"), {}, True),
        (("CUDA", "CPU"), ("libcudart.so.12",), {}, False),
        (("CUDA", "CPU"), ("libnccl.so.2",), {"GGML_CUDA_ALLREDUCE": "internal"}, False),
        (("ROCm", "CPU"), (), {}, None),
    ],
)
def test_whether_llama_cpp_uses_nccl(
    built: tuple[str, ...], libraries: tuple[str, ...], environ: dict[str, str], uses_nccl: bool | None
) -> None:
    assert Backends(built=built, libraries=libraries).uses_nccl(environ) is uses_nccl
