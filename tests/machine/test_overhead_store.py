import dataclasses
import os
from pathlib import Path

import pytest

from tests.planner.saved import local
from vram_llm.machine import json_store, overhead_store
from vram_llm.machine.types import Device, Fact, Host, Machine, Source
from vram_llm.units import GIB, MIB

CARD = local(0, name="RTX 3090", uuid="GPU-a", driver_version="580.65.06")
OTHER = dataclasses.replace(CARD, id="GPU1", uuid="GPU-b")
HOST = Host(name="box", cores=8, total_bytes=64 * GIB, available_bytes=48 * GIB)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(json_store.DATA_DIR_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data" / "overhead.json"


def measured(mib: int, driver: str | None = "580.65.06") -> overhead_store.OverheadRecord:
    return overhead_store.new_record(
        CARD, mib * MIB, how="NVML, this process", model="a model", driver=driver
    )


def with_stored_overheads(*devices: Device) -> Machine:
    return overhead_store.with_overheads(Machine(devices=devices, host=HOST, notes=("a note",)))


def test_a_measurement_applies_to_its_card_alone() -> None:
    assert "stored" in overhead_store.store({"GPU-a": measured(431)})[0]
    found = with_stored_overheads(CARD, OTHER)
    assert [device.overhead for device in found.devices] == [Fact(431 * MIB, Source.MEASURED), None]
    assert found.notes == ("a note",)


def test_the_file_has_the_measurement_and_its_versions(file: Path) -> None:
    overhead_store.store({"GPU-a": measured(431)})
    text = file.read_text()
    for part in ("580.65.06", "a model", "NVML, this process", "RTX 3090", "llama_cpp_python", "+00:00"):
        assert part in text
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("mib", "driver", "used_mib", "message"),
    [
        (500, "580.65.06", 500, "later plans include it"),
        (400, "580.65.06", 431, "the larger overhead"),
        (400, "590.1", None, "later plans include it"),  # the card of the test still has the older driver
    ],
)
def test_the_largest_measurement_of_equal_versions_is_stored(
    mib: int, driver: str, used_mib: int | None, message: str
) -> None:
    overhead_store.store({"GPU-a": measured(431)})
    assert message in " ".join(overhead_store.store({"GPU-a": measured(mib, driver)}))
    (device,) = with_stored_overheads(CARD).devices
    assert device.overhead == (None if used_mib is None else Fact(used_mib * MIB, Source.MEASURED))


def test_each_card_has_a_record_of_its_own() -> None:
    overhead_store.store({"GPU-a": measured(431)})
    overhead_store.store({"GPU-b": measured(300)})
    found = with_stored_overheads(CARD, OTHER)
    assert [device.overhead.value // MIB for device in found.devices if device.overhead] == [431, 300]


def test_a_measurement_under_another_driver_is_not_used() -> None:
    overhead_store.store({"GPU-a": measured(431)})
    found = with_stored_overheads(dataclasses.replace(CARD, driver_version="590.1"))
    assert found.devices[0].overhead is None
    assert "another driver" in found.notes[1]
    assert "vram-llm verify" in found.notes[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"\xff\xfe{", "damaged"),
        (b"[]", "damaged"),
        (b'{"version": 1, "cards": {"GPU-a": {"name": "x"}}}', "damaged"),
        (b'{"version": 2, "cards": {}}', "another version"),
    ],
)
def test_a_damaged_file_is_ignored_with_a_note(file: Path, content: bytes, message: str) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    found = with_stored_overheads(CARD)
    assert found.devices == (CARD,)
    assert message in found.notes[1]
    overhead_store.store({"GPU-a": measured(431)})
    assert with_stored_overheads(CARD).devices[0].overhead is not None


def test_a_negative_overhead_is_damage(file: Path) -> None:
    overhead_store.store({"GPU-a": measured(431)})
    file.write_text(file.read_text().replace(str(431 * MIB), "-1"))
    found = with_stored_overheads(CARD)
    assert found.devices == (CARD,)
    assert "damaged" in found.notes[1]


def test_an_error_of_writing_becomes_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv(json_store.DATA_DIR_VARIABLE, str(tmp_path / "taken"))
    assert "cannot be stored" in overhead_store.store({"GPU-a": measured(431)})[-1]


def test_a_write_that_fails_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overhead_store.store({"GPU-a": measured(431)})
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert "No space left" in overhead_store.store({"GPU-a": measured(500)})[-1]
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_without_a_file_there_is_no_note() -> None:
    found = with_stored_overheads(CARD)
    assert found == Machine(devices=(CARD,), host=HOST, notes=("a note",))
