"""ggml's names of a plan's devices in another process."""

import dataclasses

import pytest

from tests.planner.saved import absent, local, remote, saved_plan
from vram_llm.errors import BadPlan
from vram_llm.machine.types import DeviceKind
from vram_llm.planner.export.device_flags import exported_devices

A, B = "10.0.0.1:50052", "10.0.0.2:50052"


def test_cuda_cards_are_numbered_in_the_order_of_the_placement() -> None:
    plan = saved_plan([local(2), local(0), local(1)], [3, 4, 0])
    exported = exported_devices(plan)
    assert exported.names == ("CUDA0", "CUDA1")
    assert exported.cuda_variables == (
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        ("CUDA_VISIBLE_DEVICES", "GPU-2,GPU-0"),
    )
    assert exported.endpoints == exported.remarks == ()


@pytest.mark.parametrize(
    ("devices", "counts", "names", "endpoints"),
    [
        ([remote(0, A), remote(1, B)], [2, 2], ("RPC0", "RPC1"), (A, B)),
        ([remote(0, A), remote(1, B)], [0, 4], ("RPC0",), (B,)),
        ([remote(0, A), remote(1, A, 1), remote(2, B)], [0, 2, 2], ("RPC1", "RPC2"), (A, B)),
        ([remote(0, A), remote(1, A, 1), remote(2, B)], [0, 0, 4], ("RPC0",), (B,)),
        ([local(0), remote(0, A), remote(1, B)], [2, 0, 2], ("CUDA0", "RPC0"), (B,)),
    ],
)
def test_rpc_devices_are_numbered_over_all_workers_in_use(
    devices: list[object], counts: list[int], names: tuple[str, ...], endpoints: tuple[str, ...]
) -> None:
    exported = exported_devices(saved_plan(devices, counts))  # type: ignore[arg-type]  # from a table
    assert exported.names == names
    assert exported.endpoints == endpoints


def test_the_placement_may_use_workers_in_another_order_than_the_machine() -> None:
    plan = saved_plan([remote(0, A), remote(1, B)], [2, 2])
    reversed_order = dataclasses.replace(plan.placement, device_order=("RPC1", "RPC0"))
    exported = exported_devices(dataclasses.replace(plan, placement=reversed_order))
    assert exported.names == ("RPC1", "RPC0")
    assert exported.endpoints == (A, B)


def test_the_user_fills_in_the_uuids_of_what_if_cards() -> None:
    exported = exported_devices(saved_plan([absent(0), absent(1, name="NVIDIA GeForce RTX 4090")], [2, 2]))
    assert exported.uuids == ("<UUID of NVIDIA GeForce RTX 3090 Ti>", "<UUID of NVIDIA GeForce RTX 4090>")
    assert "angle brackets" in exported.remarks[0]
    assert "nvidia-smi -L" in exported.remarks[1]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (DeviceKind.ROCM, "ROCm0"),
        (DeviceKind.VULKAN, "Vulkan0"),
        (DeviceKind.METAL, "MTL0"),
        (DeviceKind.SYCL, "SYCL0"),
    ],
)
def test_what_if_cards_of_other_kinds_have_ggmls_names(kind: DeviceKind, name: str) -> None:
    exported = exported_devices(saved_plan([absent(0, kind=kind)], [4]))
    assert exported.names == (name,)
    assert exported.cuda_variables == ()
    assert any("--list-devices" in remark for remark in exported.remarks)


def test_local_devices_have_the_names_that_llama_cpp_lists() -> None:
    cards = [dataclasses.replace(local(i), kind=DeviceKind.VULKAN, ggml_name=f"Vulkan{i}") for i in (2, 0)]
    exported = exported_devices(saved_plan(cards, [2, 2]))
    assert exported.names == ("Vulkan2", "Vulkan0")
    assert exported.cuda_variables == ()
    assert exported.remarks == ()


def test_a_placement_on_a_device_that_the_plan_does_not_list_is_refused() -> None:
    plan = saved_plan([local(0)], [4])
    with pytest.raises(BadPlan, match="GPU0, which is not one of its devices"):
        exported_devices(dataclasses.replace(plan, devices=()))
