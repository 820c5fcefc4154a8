import sys
from pathlib import Path

import pytest

from tests.machine.fake_nvml import FakeCard, fake_nvml
from tests.machine.test_host import lay_out
from vram_llm.errors import UnknownDevice
from vram_llm.machine import detect, nvml
from vram_llm.machine.backend_devices import BackendDevice, Backends
from vram_llm.machine.datasheet_speed import pcie_link
from vram_llm.machine.types import Fact, Host, Source
from vram_llm.units import GIB

CPU_ONLY = Backends(built=("CPU",))
HOST = Host(name="box", cores=8, total_bytes=64 * GIB, available_bytes=48 * GIB)


@pytest.mark.parametrize(
    ("card", "bandwidth"),
    [
        (FakeCard(), Fact(1008.096e9, Source.DRIVER)),
        (FakeCard(clock_mhz=0), Fact(1008e9, Source.CATALOG)),
        (
            FakeCard(name="NVIDIA GeForce RTX 3080", total_mib=12288, bus_bits=0),
            Fact(912e9, Source.CATALOG),
        ),
        (
            FakeCard(name="NVIDIA GeForce RTX 3080", total_mib=10240, bus_bits=0),
            Fact(760e9, Source.CATALOG),
        ),
        (FakeCard(name="NVIDIA Graphics Device", bus_bits=0), None),
    ],
)
def test_the_bandwidth_is_the_drivers_or_the_catalogs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, card: FakeCard, bandwidth: Fact | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(card))
    (device,) = detect.detect(CPU_ONLY, tmp_path, {}).devices
    assert device.bandwidth_bytes_per_s == bandwidth


@pytest.mark.parametrize(
    ("card", "lanes", "source"),
    [
        (FakeCard(slot=(3, 8)), 8, Source.DRIVER),
        (FakeCard(fails={"nvmlDeviceGetMaxPcieLinkWidth": "NVMLError_NotSupported"}), 16, Source.CATALOG),
    ],
)
def test_the_link_is_the_drivers_or_the_catalogs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, card: FakeCard, lanes: int, source: Source
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(card))
    (device,) = detect.detect(CPU_ONLY, tmp_path, {}).devices
    assert device.link == pcie_link(3 if source is Source.DRIVER else 4, lanes, source)


def test_other_devices_need_no_nvidia_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(init_fails="NVMLError_LibraryNotFound"))
    radeon = BackendDevice(
        registry="Vulkan", name="Vulkan0", description="AMD Radeon RX 7900 XTX (RADV NAVI31)",
        total_bytes=24 * GIB, free_bytes=23 * GIB, alignment_bytes=64, is_integrated=False,
        pci_bus_id="0000:03:00.0",
    )  # fmt: skip
    machine = detect.detect(Backends(built=("CPU", "Vulkan"), devices=(radeon,)), tmp_path, {})
    assert machine.notes == ()
    assert machine.devices[0].bandwidth_bytes_per_s == Fact(960e9, Source.CATALOG)
    assert nvml.NO_DRIVER in detect.detect(CPU_ONLY, tmp_path, {}).notes


def test_hidden_cards_are_not_detected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(FakeCard()))
    machine = detect.detect(CPU_ONLY, tmp_path, {"CUDA_VISIBLE_DEVICES": "-1"})
    assert machine.devices == ()
    assert "hides 1 of 1" in machine.notes[0]


def test_notes_name_other_makers_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    monkeypatch.setattr("platform.system", lambda: "Linux")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    for index, vendor in enumerate(("0x8086", "0x10de", "0x1002")):
        folder = tmp_path / f"sys/class/drm/card{index}/device"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
    notes = detect.detect(CPU_ONLY, tmp_path, {}).notes
    assert [note.split()[0] for note in notes] == ["AMD", "Intel"]
    assert "-DGGML_HIP=ON" in notes[0]
    assert "-DGGML_VULKAN=ON" in notes[1]
    assert detect.detect(Backends(built=("CPU", "Vulkan")), tmp_path, {}).notes == ()


def test_dedicated_memory_of_graphics_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    files = {"mem_info_vram_total": 32 * GIB, "mem_info_vram_used": GIB}
    graphics = tmp_path / "sys/devices/0000:c4:00.0"
    lay_out(graphics, {name: str(n_bytes) for name, n_bytes in files.items()})
    (tmp_path / "sys/class/drm/card1").mkdir(parents=True)
    (tmp_path / "sys/class/drm/card1/device").symlink_to(graphics)
    strix_halo = BackendDevice(
        registry="Vulkan", name="Vulkan0", description="AMD Radeon 8060S (RADV GFX1151)",
        total_bytes=80 * GIB, free_bytes=79 * GIB, alignment_bytes=64, is_integrated=True,
        pci_bus_id="0000:c4:00.0",
    )  # fmt: skip
    machine = detect.detect(Backends(built=("CPU", "Vulkan"), devices=(strix_halo,)), tmp_path, {})
    (device,) = machine.devices
    assert (device.shares_host_memory, device.set_aside_bytes) == (True, 31 * GIB)
    assert machine.host.bandwidth_bytes_per_s == Fact(256e9, Source.CATALOG)


def test_this_machine_is_detected() -> None:
    machine = detect.detect(CPU_ONLY)
    assert machine.host.total_bytes > 0
    assert machine.devices or machine.notes


def test_what_if_cards_replace_the_local_ones() -> None:
    machine = detect.what_if(["RTX 4080 Laptop", "2x 3080"], HOST)
    assert [device.id for device in machine.devices] == ["GPU0", "GPU1", "GPU2"]
    assert machine.host is HOST
    assert "also made with 12 GB" in machine.notes[0]


def test_an_unknown_what_if_card_is_refused() -> None:
    with pytest.raises(UnknownDevice, match="RTX 4095"):
        detect.what_if(["RTX 4095"], HOST)
