"""Memory of a machine for a fleet, with and without the models that are loaded on it."""

import dataclasses

from tests.planner.cases import machine
from tests.planner.saved import local, saved_plan
from vram_llm.machine.types import Machine, Source
from vram_llm.planner.fleet.room import (
    budgets_of,
    free_budgets,
    machine_within,
    machine_without,
    uses_of_plan,
    without,
)
from vram_llm.planner.types import HOST
from vram_llm.units import GIB

_LOADED = saved_plan([local(0)], [4])  # 4 GiB on GPU0, 2 GiB on the host


def _rig(source: Source) -> Machine:
    rig = machine([10 * GIB, 8 * GIB], host_bytes=16 * GIB)
    devices = (
        dataclasses.replace(device, total_bytes=24 * GIB, memory_source=source) for device in rig.devices
    )
    return dataclasses.replace(
        rig, devices=tuple(devices), host=dataclasses.replace(rig.host, total_bytes=32 * GIB)
    )


def test_the_machine_of_one_model_has_its_devices_and_budgets() -> None:
    rig = machine_within(_rig(Source.DRIVER), ["GPU1"], {"GPU1": 3 * GIB, HOST: 5 * GIB}, GIB)
    assert budgets_of(rig, GIB) == {"GPU1": 3 * GIB, HOST: 5 * GIB}
    more = machine_within(_rig(Source.DRIVER), ["GPU1"], {"GPU1": 30 * GIB, HOST: 50 * GIB}, GIB)
    assert budgets_of(more, GIB) == {"GPU1": 7 * GIB, HOST: 15 * GIB}


def test_free_bytes_of_a_driver_exclude_loaded_models() -> None:
    rig = _rig(Source.DRIVER)
    held = uses_of_plan(_LOADED)
    assert held == {"GPU0": 4 * GIB, HOST: 2 * GIB}
    assert free_budgets(rig, 0, [_LOADED]) == {"GPU0": 10 * GIB, "GPU1": 8 * GIB, HOST: 16 * GIB}
    assert budgets_of(machine_without(rig, [_LOADED]), 0) == {
        "GPU0": 14 * GIB, "GPU1": 8 * GIB, HOST: 18 * GIB,
    }  # fmt: skip


def test_a_limit_that_was_given_holds_loaded_models() -> None:
    rig = _rig(Source.GIVEN)
    assert free_budgets(rig, 0, [_LOADED])["GPU0"] == 6 * GIB
    assert budgets_of(machine_without(rig, [_LOADED]), 0)["GPU0"] == 10 * GIB


def test_a_device_of_one_program_has_no_room_beside_it() -> None:
    groups = [frozenset({"GPU0", "GPU1"})]
    budgets = {"GPU0": 10, "GPU1": 8, HOST: 16}
    assert without(budgets, [{"GPU0": 4, HOST: 2}], groups) == {"GPU0": 0, "GPU1": 0, HOST: 14}
    rig = _rig(Source.DRIVER)
    assert free_budgets(rig, 0, [_LOADED], groups) == {"GPU0": 0, "GPU1": 0, HOST: 16 * GIB}
