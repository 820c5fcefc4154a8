import dataclasses

import pytest

from tests.planner.cases import speed
from vram_llm.machine.assumed_speed import (
    WORKER_LATENCY_S,
    device_link,
    device_speed,
    has_assumed_speed,
    host_speed,
    with_assumed_speeds,
)
from vram_llm.machine.catalog import cards
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Source, Speed
from vram_llm.units import GIB

HOST = Host(name="test", cores=8, total_bytes=GIB, available_bytes=GIB)


def device(kind: DeviceKind, speed: Speed | None = None) -> Device:
    return Device(
        id="X0",
        name="x",
        kind=kind,
        total_bytes=GIB,
        free_bytes=GIB,
        memory_source=Source.DRIVER,
        speed=speed,
    )


def facts(speed: Speed) -> list[Fact]:
    values = (getattr(speed, field.name) for field in dataclasses.fields(speed))
    return [value for value in values if isinstance(value, Fact)]


def test_assumed_is_the_least_trusted_source() -> None:
    assert list(Source)[-1] is Source.ASSUMED


def test_a_worker_gets_the_speed_of_an_old_computer_on_a_slow_network() -> None:
    worker = device(DeviceKind.RPC)
    found, link = device_speed(worker), device_link(worker)
    assert found.read_bytes_per_s == Fact(20e9, Source.ASSUMED)
    assert {fact.source for fact in facts(found)} == {Source.ASSUMED}
    assert found.step_overhead_s.value > 2 * 0.5e-3  # there and back
    assert link is not None
    assert (link.bytes_per_s, link.latency_s) == (Fact(125e6, Source.ASSUMED), Fact(0.5e-3, Source.ASSUMED))


@pytest.mark.parametrize("kind", [kind for kind in DeviceKind if kind is not DeviceKind.RPC])
def test_the_assumed_speed_of_a_card_is_below_all_cards_of_the_catalog(kind: DeviceKind) -> None:
    bandwidths = [card.bandwidth_bytes_per_s for card in cards() if card.kind is kind]
    found = device_speed(device(kind))
    assert {fact.source for fact in facts(found)} == {Source.ASSUMED}
    assert found.prompt_flops_per_s is not None
    assert found.split_s is not None
    assert all(bandwidth is None or found.read_bytes_per_s.value < bandwidth for bandwidth in bandwidths)
    assert found.read_bytes_per_s.value > host_speed(HOST).read_bytes_per_s.value


def test_known_figures_stay() -> None:
    machine = what_if(["RTX 3090"], HOST)
    (found,), (known,) = with_assumed_speeds(machine).devices, machine.devices
    assert found.speed is not None
    assert known.speed is not None
    assert dataclasses.replace(found.speed, split_s=None) == known.speed
    measured_speed = dataclasses.replace(speed(5), split_s=Fact(1e-3, Source.MEASURED))
    worker = device(DeviceKind.RPC, measured_speed)
    assert device_speed(worker) == measured_speed
    assert device_link(worker) is None
    assert not has_assumed_speed(worker)
    host = dataclasses.replace(HOST, speed=measured_speed)
    assert host_speed(host) == measured_speed


def test_a_calibration_without_the_time_of_a_split_gets_an_assumed_one() -> None:
    found = device_speed(device(DeviceKind.RPC, speed(5)))
    assert found.read_bytes_per_s == Fact(5e9, Source.MEASURED)
    assert found.split_s is not None
    assert found.split_s.source is Source.ASSUMED
    assert found.split_s.value > 2 * WORKER_LATENCY_S


def test_only_unknown_figures_are_assumed() -> None:
    found = device_speed(what_if(["24GiB@1000GB/s"]).devices[0])
    assert found.read_bytes_per_s == Fact(900e9, Source.GIVEN)
    assert found.prompt_flops_per_s == Fact(25 * 900e9, Source.ASSUMED)
    assert found.row_flops_per_s is not None
    assert found.row_flops_per_s.source is Source.ASSUMED


@pytest.mark.parametrize(("cores", "gb_s"), [(1, 7.5), (2, 15), (8, 30), (64, 30)])
def test_an_assumed_host_is_limited_by_its_cores_and_by_two_channels(cores: int, gb_s: float) -> None:
    found = host_speed(dataclasses.replace(HOST, cores=cores))
    assert found.read_bytes_per_s == Fact(gb_s * 1e9, Source.ASSUMED)
