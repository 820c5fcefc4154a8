import dataclasses
from pathlib import Path

import msgspec
import pytest

from tests.planner.saved import local, remote
from vram_llm.errors import UnknownDevice, VramLLMError
from vram_llm.machine import calibration_store, json_store
from vram_llm.machine.types import Device, Fact, Host, Link, Machine, Source, Speed, TypeSpeed
from vram_llm.units import GIB

CARD = local(0, name="RTX 3090", uuid="GPU-a", driver_version="580.65.06")
WORKER = remote(0, "10.0.0.2:50052")
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


def store(device: Device | Host, link: Link | None = None, speed: Speed = SPEED) -> str:
    """Store a record of a device; its key."""
    key = calibration_store.device_key(device)
    assert key is not None
    assert calibration_store.store(key, calibration_store.new_record(device, speed, link, 0.05)).notes == ()
    return key


def test_each_device_gets_its_own_figures() -> None:
    store(CARD)
    store(WORKER, LINK)
    store(HOST)
    other = dataclasses.replace(CARD, id="GPU1", uuid="GPU-b")
    machine = calibration_store.with_measured_speeds(
        Machine(devices=(CARD, other, WORKER), host=HOST, notes=("a note",))
    )
    assert [device.speed for device in machine.devices] == [SPEED, None, SPEED]
    assert [device.link for device in machine.devices] == [None, None, LINK]
    assert machine.host.speed == SPEED
    assert machine.notes == ("a note",)


def measured_link(latency_s: float, bytes_per_s: float) -> Link:
    return Link(latency_s=Fact(latency_s, Source.MEASURED), bytes_per_s=Fact(bytes_per_s, Source.MEASURED))


@pytest.mark.parametrize(
    ("now", "is_slower"),
    [
        (measured_link(1e-4, 1e8), False),
        (measured_link(1e-3, 0.6e8), False),  # a short measurement may be that far off
        (measured_link(1e-5, 1e9), False),  # a better link counts when it is calibrated again
        (measured_link(1e-4, 0.4e8), True),
        (measured_link(20e-3, 1e8), True),
    ],
)
def test_a_link_that_has_become_slower(now: Link, is_slower: bool) -> None:
    store(WORKER, LINK, dataclasses.replace(SPEED, split_s=Fact(1e-3, Source.MEASURED)))
    worker = dataclasses.replace(WORKER, link=now)
    machine = calibration_store.with_measured_speeds(Machine(devices=(worker,), host=HOST))
    (found,) = machine.devices
    assert found.link == (now if is_slower else LINK)
    assert len(machine.notes) == is_slower
    assert found.speed is not None
    assert found.speed.split_s is not None
    more_s = 2 * max(now.latency_s.value - LINK.latency_s.value, 0.0) if is_slower else 0.0
    assert found.speed.step_overhead_s.value == pytest.approx(more_s)
    assert found.speed.split_s.value == pytest.approx(1e-3 + more_s)
    if is_slower:
        assert "is slower than when it was calibrated" in machine.notes[0]


def test_all_figures_of_a_processor_and_of_a_link_are_stored() -> None:
    rate = Fact(2e10, Source.MEASURED)
    all_figures = dataclasses.replace(
        SPEED,
        split_s=Fact(1e-4, Source.MEASURED),
        expert_read_share=Fact(0.8, Source.MEASURED),
        attention_flops_per_s=Fact(4e10, Source.MEASURED),
        types=(TypeSpeed(type="Q4_K", read_bytes_per_s=rate, row_flops_per_s=rate, prompt_flops_per_s=rate),),
        threads=6,
    )
    both_ways = dataclasses.replace(LINK, send_bytes_per_s=rate)
    store(HOST, speed=all_figures)
    store(WORKER, both_ways, all_figures)
    machine = calibration_store.with_measured_speeds(Machine(devices=(WORKER,), host=HOST))
    assert machine.host.speed == all_figures
    assert machine.host.best_threads == 6
    assert machine.devices[0].link == both_ways


def test_records_of_older_versions_are_read(file: Path) -> None:
    """They have no types, threads and splits, and one rate for both directions of a link."""
    key = store(WORKER, LINK)
    (record,) = calibration_store.read()[0].values()
    content = msgspec.json.decode(file.read_bytes())
    (fields,) = next(value for value in content.values() if isinstance(value, dict)).values()
    for added in ("types", "threads", "split_s", "expert_read_share", "attention_flops_per_s"):
        del fields[added]
    del fields["link_send_bytes_per_s"]
    file.write_bytes(msgspec.json.encode(content))
    assert calibration_store.read()[0] == {key: record}


@pytest.mark.parametrize(
    ("device", "key"),
    [
        (CARD, "GPU-a"),
        (dataclasses.replace(CARD, uuid=None, pci_bus_id="0000:01:00.0"), "0000:01:00.0"),
        (WORKER, "10.0.0.2:50052"),
        (dataclasses.replace(WORKER, endpoint_index=1), "10.0.0.2:50052 device 1"),
        (HOST, "EPYC, 8 threads"),
        (dataclasses.replace(CARD, what_if=True), None),
    ],
)
def test_the_key_of_a_device(device: Device | Host, key: str | None) -> None:
    assert calibration_store.device_key(device) == key


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(CARD, driver_version="590.1"),
        dataclasses.replace(WORKER, total_bytes=32 * GIB),
    ],
)
def test_the_measurement_of_a_changed_device_is_not_used(changed: Device) -> None:
    store(CARD)
    store(WORKER)
    machine = calibration_store.with_measured_speeds(Machine(devices=(changed,), host=HOST))
    assert machine.devices == (changed,)
    assert "vram-llm calibrate" in machine.notes[0]


def test_the_newest_measurement_is_stored_with_date_and_versions(file: Path) -> None:
    key = store(WORKER)
    calibration_store.store(key, calibration_store.new_record(WORKER, SPEED, LINK, 0.01))
    (record,) = calibration_store.read()[0].values()
    assert (record.residual, record.link) == (0.01, LINK)
    assert record.measured_at.endswith("+00:00")
    assert record.llama_cpp_python in file.read_text()


def test_records_are_deleted_by_name() -> None:
    keys = [store(CARD), store(WORKER), store(HOST)]
    assert calibration_store.forget(["RTX 3090"]) == (keys[0],)
    assert list(calibration_store.read()[0]) == keys[1:]
    with pytest.raises(UnknownDevice, match=r"'RTX 4090'; measured so far: 10\.0\.0\.2:50052; EPYC"):
        calibration_store.forget(["RTX 4090"])
    assert set(calibration_store.forget(())) == set(keys[1:])
    assert calibration_store.read() == ({}, ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"\xff{", "damaged"),
        (b'{"version": 1, "cards": {"GPU-a": {"name": "x"}}}', "damaged"),
        (b'{"version": 7, "cards": {}}', "another version"),
    ],
)
def test_a_file_that_cannot_be_used_is_ignored_with_a_note(file: Path, content: bytes, message: str) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    machine = calibration_store.with_measured_speeds(Machine(devices=(CARD,), host=HOST))
    assert machine.devices == (CARD,)
    assert message in machine.notes[0]
    with pytest.raises(VramLLMError, match="--forget all"):
        calibration_store.forget(["GPU-a"])
    assert calibration_store.forget(()) == ()
    assert calibration_store.read() == ({}, ())


def test_impossible_figures_count_as_damage(file: Path) -> None:
    store(CARD)
    file.write_text(file.read_text().replace("900000000000.0", "-1.0"))
    assert "damaged" in calibration_store.read()[1][0]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv(json_store.DATA_DIR_VARIABLE, str(tmp_path / "taken"))
    record = calibration_store.new_record(CARD, SPEED, None, 0.0)
    assert "cannot be stored" in calibration_store.store("GPU-a", record).notes[-1]
    with pytest.raises(VramLLMError, match="cannot be written"):
        calibration_store.forget(())
