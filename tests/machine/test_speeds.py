import dataclasses
from pathlib import Path

import pytest

from vram_llm.errors import UnknownDevice, VramLLMError
from vram_llm.machine import kept, speeds
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Link, Machine, Source, Speed
from vram_llm.units import GIB

CARD = Device(
    id="CUDA0",
    name="RTX 3090",
    kind=DeviceKind.CUDA,
    total_bytes=24 * GIB,
    free_bytes=23 * GIB,
    memory_source=Source.DRIVER,
    uuid="GPU-a",
    driver_version="580.65.06",
)
WORKER = Device(
    id="RPC0",
    name="worker 10.0.0.2:50052",
    kind=DeviceKind.RPC,
    total_bytes=16 * GIB,
    free_bytes=8 * GIB,
    memory_source=Source.GIVEN,
    endpoint="10.0.0.2:50052",
)
HOST = Host(name="box", cores=8, total_bytes=64 * GIB, available_bytes=48 * GIB, cpu_name="EPYC")
SPEED = Speed(
    read_bytes_per_s=Fact(9e11, Source.MEASURED),
    layer_overhead_s=Fact(3e-5, Source.MEASURED),
    step_overhead_s=Fact(0.0, Source.MEASURED),
    row_flops_per_s=Fact(5e12, Source.MEASURED),
    prompt_flops_per_s=None,
)
LINK = Link(latency_s=Fact(1e-4, Source.MEASURED), bytes_per_s=Fact(1e8, Source.MEASURED))


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(kept.DATA_DIR_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data" / "speed.json"


def keep(of: Device | Host, link: Link | None = None) -> str:
    name = speeds.key(of)
    assert name is not None
    assert speeds.keep(name, speeds.record(of, SPEED, link, 0.05)).notes == ()
    return name


def test_each_device_gets_its_own_figures_back() -> None:
    keep(CARD)
    keep(WORKER, LINK)
    keep(HOST)
    other = dataclasses.replace(CARD, id="CUDA1", uuid="GPU-b")
    machine = speeds.with_speeds(Machine(devices=(CARD, other, WORKER), host=HOST, notes=("a note",)))
    assert [device.speed for device in machine.devices] == [SPEED, None, SPEED]
    assert [device.link for device in machine.devices] == [None, None, LINK]
    assert machine.host.speed == SPEED
    assert machine.notes == ("a note",)


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (CARD, "GPU-a"),
        (dataclasses.replace(CARD, uuid=None, pci_bus_id="0000:01:00.0"), "0000:01:00.0"),
        (WORKER, "10.0.0.2:50052"),
        (dataclasses.replace(WORKER, endpoint_index=1), "10.0.0.2:50052 device 1"),
        (HOST, "EPYC, 8 threads"),
        (dataclasses.replace(CARD, what_if=True), None),
    ],
)
def test_what_a_device_is_known_by(of: Device | Host, name: str | None) -> None:
    assert speeds.key(of) == name


@pytest.mark.parametrize(
    "now",
    [
        dataclasses.replace(CARD, driver_version="590.1"),
        dataclasses.replace(WORKER, total_bytes=32 * GIB),
    ],
)
def test_a_measurement_of_something_else_is_not_used(now: Device) -> None:
    keep(CARD)
    keep(WORKER)
    machine = speeds.with_speeds(Machine(devices=(now,), host=HOST))
    assert machine.devices == (now,)
    assert "vram-llm calibrate" in machine.notes[0]


def test_the_newest_is_kept_with_date_and_versions(file: Path) -> None:
    name = keep(WORKER)
    speeds.keep(name, speeds.record(WORKER, SPEED, LINK, 0.01))
    (record,) = speeds.read()[0].values()
    assert (record.residual, record.link) == (0.01, LINK)
    assert record.measured_at.endswith("+00:00")
    assert record.llama_cpp_python in file.read_text()


def test_forgetting() -> None:
    names = [keep(CARD), keep(WORKER), keep(HOST)]
    assert speeds.forget(["RTX 3090"]) == (names[0],)
    assert list(speeds.read()[0]) == names[1:]
    with pytest.raises(UnknownDevice, match=r"'RTX 4090'; measured so far: 10\.0\.0\.2:50052; EPYC"):
        speeds.forget(["RTX 4090"])
    assert set(speeds.forget(())) == set(names[1:])
    assert speeds.read() == ({}, ())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b"\xff{", "damaged"),
        (b'{"version": 1, "cards": {"GPU-a": {"name": "x"}}}', "damaged"),
        (b'{"version": 7, "cards": {}}', "another version"),
    ],
)
def test_a_file_that_cannot_be_used(file: Path, content: bytes, said: str) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    machine = speeds.with_speeds(Machine(devices=(CARD,), host=HOST))
    assert machine.devices == (CARD,)
    assert said in machine.notes[0]
    with pytest.raises(VramLLMError, match="--forget all"):
        speeds.forget(["GPU-a"])
    assert speeds.forget(()) == ()
    assert speeds.read() == ({}, ())


def test_figures_no_device_can_have_are_damage(file: Path) -> None:
    keep(CARD)
    file.write_text(file.read_text().replace("900000000000.0", "-1.0"))
    assert "damaged" in speeds.read()[1][0]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv(kept.DATA_DIR_VARIABLE, str(tmp_path / "taken"))
    assert "cannot be kept" in speeds.keep("GPU-a", speeds.record(CARD, SPEED, None, 0.0)).notes[-1]
    with pytest.raises(VramLLMError, match="cannot be written"):
        speeds.forget(())
