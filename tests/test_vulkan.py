"""A Vulkan device of this machine, planned for and served. Mesa's software driver is one:

GGML_VK_VISIBLE_DEVICES=0 python -m pytest tests/test_vulkan.py
"""

import dataclasses

import pytest

from tests.server.live import serving
from vram_llm.llama.registry import backends, gpu_libraries
from vram_llm.machine.types import DeviceKind, Machine
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows import detection, planning, verification

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif("vulkan" not in gpu_libraries(), reason="llama.cpp is built without Vulkan"),
]


@pytest.fixture(scope="module")
def machine() -> Machine:
    if not any(device.registry == "Vulkan" for device in backends().devices):
        pytest.skip("no Vulkan device: GGML_VK_VISIBLE_DEVICES=0 shows Mesa's software driver, if installed")
    found = detection.detect()
    vulkan = tuple(device for device in found.devices if device.kind is DeviceKind.VULKAN)
    return dataclasses.replace(found, devices=vulkan[:1])


@pytest.fixture(scope="module")
def plan(machine: Machine) -> Plan:
    with planning.dry_run() as dry:
        return planning.plan("demo", machine, Workload(n_ctx=1024, n_gpu_layers=-1), dry)


def test_it_is_planned_for_by_the_dry_run(machine: Machine, plan: Plan) -> None:
    (device,) = machine.devices
    assert (device.ggml_name or "").startswith("Vulkan")
    assert plan.placement.device_order == (device.id,)
    assert plan.estimate.method == "dry run"
    assert not plan.context.backend_sampling


def test_it_holds_what_is_planned(plan: Plan) -> None:
    row = verification.verify(plan).devices[0]
    held = {kind.kind: (kind.planned_bytes, kind.held_bytes) for kind in row.kinds if kind.kind != "overhead"}
    assert {kind: pair for kind, pair in held.items() if pair[0] != pair[1]} == {}


def test_it_answers(plan: Plan) -> None:
    with serving("demo", "--n-ctx", "1024") as served:
        served.await_health()
        assert "memory" in served.chat("What is VRAM?", temperature=0)
