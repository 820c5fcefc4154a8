import dataclasses
from pathlib import Path

import msgspec
import pytest

from vram_llm.errors import UnknownDevice, VramLLMError
from vram_llm.machine import calibration_store, json_store
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Link, Machine, Source, Speed, TypeSpeed
from vram_llm.units import GIB

CARD = Device(
    id="GPU0",
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
    monkeypatch.setenv(json_store.DATA_DIR_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data" / "speed.json"


def keep(of: Device | Host, link: Link | None = None) -> str:
    name = calibration_store.key(of)
    assert name is not None
    assert calibration_store.keep(name, calibration_store.record(of, SPEED, link, 0.05)).notes == ()
    return name


def test_each_device_gets_its_own_figures_back() -> None:
    keep(CARD)
    keep(WORKER, LINK)
    keep(HOST)
    other = dataclasses.replace(CARD, id="GPU1", uuid="GPU-b")
    machine = calibration_store.with_speeds(
        Machine(devices=(CARD, other, WORKER), host=HOST, notes=("a note",))
    )
    assert [device.speed for device in machine.devices] == [SPEED, None, SPEED]
    assert [device.link for device in machine.devices] == [None, None, LINK]
    assert machine.host.speed == SPEED
    assert machine.notes == ("a note",)


def test_a_processors_types_and_threads_and_both_ways_of_a_link_are_kept() -> None:
    rate = Fact(2e10, Source.MEASURED)
    whole = dataclasses.replace(
        SPEED,
        split_s=Fact(1e-4, Source.MEASURED),
        expert_read_share=Fact(0.8, Source.MEASURED),
        attention_flops_per_s=Fact(4e10, Source.MEASURED),
        types=(TypeSpeed(type="Q4_K", read_bytes_per_s=rate, row_flops_per_s=rate, prompt_flops_per_s=rate),),
        threads=6,
    )
    both_ways = dataclasses.replace(LINK, send_bytes_per_s=rate)
    for of, link in ((HOST, None), (WORKER, both_ways)):
        name = calibration_store.key(of)
        assert name is not None
        calibration_store.keep(name, calibration_store.record(of, whole, link, 0.05))
    machine = calibration_store.with_speeds(Machine(devices=(WORKER,), host=HOST))
    assert machine.host.speed == whole
    assert machine.host.best_threads == 6
    assert machine.devices[0].link == both_ways


def test_records_of_older_versions_are_read(file: Path) -> None:
    """Without types, threads, splits, and with one rate for both ways of a link."""
    name = keep(WORKER, LINK)
    (record,) = calibration_store.read()[0].values()
    kept = msgspec.json.decode(file.read_bytes())
    (of_worker,) = next(value for value in kept.values() if isinstance(value, dict)).values()
    for added in ("types", "threads", "split_s", "expert_read_share", "attention_flops_per_s"):
        del of_worker[added]
    del of_worker["link_send_bytes_per_s"]
    file.write_bytes(msgspec.json.encode(kept))
    assert calibration_store.read()[0] == {name: record}


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
    assert calibration_store.key(of) == name


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
    machine = calibration_store.with_speeds(Machine(devices=(now,), host=HOST))
    assert machine.devices == (now,)
    assert "vram-llm calibrate" in machine.notes[0]


def test_the_newest_is_kept_with_date_and_versions(file: Path) -> None:
    name = keep(WORKER)
    calibration_store.keep(name, calibration_store.record(WORKER, SPEED, LINK, 0.01))
    (record,) = calibration_store.read()[0].values()
    assert (record.residual, record.link) == (0.01, LINK)
    assert record.measured_at.endswith("+00:00")
    assert record.llama_cpp_python in file.read_text()


def test_forgetting() -> None:
    names = [keep(CARD), keep(WORKER), keep(HOST)]
    assert calibration_store.forget(["RTX 3090"]) == (names[0],)
    assert list(calibration_store.read()[0]) == names[1:]
    with pytest.raises(UnknownDevice, match=r"'RTX 4090'; measured so far: 10\.0\.0\.2:50052; EPYC"):
        calibration_store.forget(["RTX 4090"])
    assert set(calibration_store.forget(())) == set(names[1:])
    assert calibration_store.read() == ({}, ())


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
    machine = calibration_store.with_speeds(Machine(devices=(CARD,), host=HOST))
    assert machine.devices == (CARD,)
    assert said in machine.notes[0]
    with pytest.raises(VramLLMError, match="--forget all"):
        calibration_store.forget(["GPU-a"])
    assert calibration_store.forget(()) == ()
    assert calibration_store.read() == ({}, ())


def test_figures_no_device_can_have_are_damage(file: Path) -> None:
    keep(CARD)
    file.write_text(file.read_text().replace("900000000000.0", "-1.0"))
    assert "damaged" in calibration_store.read()[1][0]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv(json_store.DATA_DIR_VARIABLE, str(tmp_path / "taken"))
    assert (
        "cannot be stored"
        in calibration_store.keep("GPU-a", calibration_store.record(CARD, SPEED, None, 0.0)).notes[-1]
    )
    with pytest.raises(VramLLMError, match="cannot be written"):
        calibration_store.forget(())
