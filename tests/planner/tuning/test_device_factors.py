"""Measured steps of several splits say which device is slower than predicted."""

import pytest

from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Machine, Source, Speed
from vram_llm.planner.tuning.device_factors import MeasuredStep, corrected, fit_factors

SPEED = Speed(
    read_bytes_per_s=Fact(20e9, Source.ASSUMED),
    layer_overhead_s=Fact(1e-5, Source.ASSUMED),
    step_overhead_s=Fact(1e-3, Source.ASSUMED),
    row_flops_per_s=None,
    prompt_flops_per_s=None,
)


def steps(a: float, b: float) -> list[MeasuredStep]:
    """Steps of four splits of twelve layers over two devices, slower by these factors than predicted."""
    return [
        MeasuredStep({"A": 0.01 * n, "B": 0.01 * (12 - n)}, 0.01 * (a * n + b * (12 - n)))
        for n in (3, 6, 7, 9)
    ]


def test_each_device_by_itself() -> None:
    found = fit_factors(steps(1.0, 3.0))
    assert found is not None
    assert found.factors["A"] == pytest.approx(1.0, rel=0.05)
    assert found.factors["B"] == pytest.approx(3.0, rel=0.05)
    assert found.is_better
    assert set(found.notable) >= {"B"}
    assert found.error_after < 0.02 < found.error_before


def test_right_predictions_are_left_alone() -> None:
    found = fit_factors(steps(1.01, 0.99))
    assert found is not None
    assert not found.is_better


def test_one_placement_says_nothing_about_devices() -> None:
    assert fit_factors(steps(1, 2)[:1] * 3) is None


def test_a_device_that_takes_no_part_is_as_wrong_as_the_others() -> None:
    found = fit_factors([MeasuredStep({"A": 0.01 * n, "B": 1e-9}, 0.02 * n) for n in (3, 6)])
    assert found is not None
    assert found.factors["B"] == pytest.approx(2.0, rel=0.05)


def test_the_machine_is_corrected() -> None:
    device = Device(
        id="A", name="card", kind=DeviceKind.CUDA, total_bytes=1, free_bytes=1,
        memory_source=Source.GIVEN, speed=SPEED,
    )  # fmt: skip
    machine = Machine(
        devices=(device,), host=Host(name="desk", cores=2, total_bytes=1, available_bytes=1, speed=SPEED)
    )
    slower = corrected(machine, {"A": 2.0}).devices[0].speed
    assert slower is not None
    assert slower.read_bytes_per_s == Fact(10e9, Source.MEASURED)
    assert slower.step_overhead_s.value == pytest.approx(2e-3)
    assert corrected(machine, {"A": 2.0}).host == machine.host
