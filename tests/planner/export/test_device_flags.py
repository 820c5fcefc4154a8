import dataclasses

import pytest

from tests.planner.saved import absent, local, remote, saved_plan
from vram_llm.errors import BadPlan
from vram_llm.machine.types import DeviceKind
from vram_llm.planner.export.device_flags import reach

A, B = "10.0.0.1:50052", "10.0.0.2:50052"


def test_cards_are_numbered_in_the_order_they_are_listed() -> None:
    plan = saved_plan([local(2), local(0), local(1)], [3, 4, 0])
    where = reach(plan)
    assert where.names == ("CUDA0", "CUDA1")
    assert where.environment == (
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        ("CUDA_VISIBLE_DEVICES", "GPU-2,GPU-0"),
    )
    assert where.endpoints == where.remarks == ()


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
def test_workers_devices_are_numbered_over_all_workers_in_use(
    devices: list[object], counts: list[int], names: tuple[str, ...], endpoints: tuple[str, ...]
) -> None:
    where = reach(saved_plan(devices, counts))  # type: ignore[arg-type]  # from a table
    assert where.names == names
    assert where.endpoints == endpoints


def test_an_order_of_workers_that_is_not_the_machines() -> None:
    plan = saved_plan([remote(0, A), remote(1, B)], [2, 2])
    turned = dataclasses.replace(plan.placement, device_order=("RPC1", "RPC0"))
    where = reach(dataclasses.replace(plan, placement=turned))
    assert where.names == ("RPC1", "RPC0")
    assert where.endpoints == (A, B)


def test_cards_that_are_not_here_are_to_be_filled_in() -> None:
    where = reach(saved_plan([absent(0), absent(1, name="NVIDIA GeForce RTX 4090")], [2, 2]))
    assert where.uuids == ("<UUID of NVIDIA GeForce RTX 3090 Ti>", "<UUID of NVIDIA GeForce RTX 4090>")
    assert "angle brackets" in where.remarks[0]
    assert "nvidia-smi -L" in where.remarks[1]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (DeviceKind.ROCM, "ROCm0"),
        (DeviceKind.VULKAN, "Vulkan0"),
        (DeviceKind.METAL, "MTL0"),
        (DeviceKind.SYCL, "SYCL0"),
    ],
)
def test_other_kinds_go_by_ggmls_names(kind: DeviceKind, name: str) -> None:
    where = reach(saved_plan([absent(0, kind=kind)], [4]))
    assert where.names == (name,)
    assert where.environment == ()
    assert any("--list-devices" in remark for remark in where.remarks)


def test_devices_here_go_by_the_names_that_llama_cpp_lists() -> None:
    cards = [dataclasses.replace(local(i), kind=DeviceKind.VULKAN, ggml_name=f"Vulkan{i}") for i in (2, 0)]
    where = reach(saved_plan(cards, [2, 2]))
    assert where.names == ("Vulkan2", "Vulkan0")
    assert where.environment == ()
    assert where.remarks == ()


def test_a_plan_that_names_a_device_it_does_not_describe() -> None:
    plan = saved_plan([local(0)], [4])
    with pytest.raises(BadPlan, match="GPU0, which is not one of its devices"):
        reach(dataclasses.replace(plan, devices=()))
