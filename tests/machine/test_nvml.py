import ctypes
import sys
from typing import Any

import pytest

from tests.machine.fake_nvml import FakeCard, fake_nvml
from vram_llm.machine import catalog, nvml
from vram_llm.machine.datasheet_speed import pcie_link
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Source
from vram_llm.units import GIB, MIB

HOST = Host(name="box", cores=8, total_bytes=64 * GIB, available_bytes=48 * GIB)


def read(monkeypatch: pytest.MonkeyPatch, fake: Any) -> nvml.DetectedDevices:
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return nvml.read_cards(HOST)


def test_a_card_with_every_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_nvml(FakeCard())
    found = read(monkeypatch, fake)
    assert found.notes == ()
    assert found.devices == (
        Device(
            id="GPU0",
            name="NVIDIA GeForce RTX 3090 Ti",
            kind=DeviceKind.CUDA,
            total_bytes=24576 * MIB,
            free_bytes=24000 * MIB,
            memory_source=Source.DRIVER,
            bandwidth_bytes_per_s=Fact(1008.096e9, Source.DRIVER),
            alignment_bytes=128,
            row_padding=512,
            uuid="GPU-1111-2222",
            pci_bus_id="0000:01:00.0",
            compute_capability="8.6",
            driver_version="580.65.06",
            link=pcie_link(4, 16, Source.DRIVER),
        ),
    )
    assert fake.shut_down == 1


@pytest.mark.parametrize(
    ("query", "fact"),
    [
        ("nvmlDeviceGetUUID", "uuid"),
        ("nvmlDeviceGetPciInfo", "pci_bus_id"),
        ("nvmlDeviceGetCudaComputeCapability", "compute_capability"),
        ("nvmlDeviceGetMaxClockInfo", "bandwidth_bytes_per_s"),
        ("nvmlDeviceGetMemoryBusWidth", "bandwidth_bytes_per_s"),
        ("nvmlDeviceGetMaxPcieLinkWidth", "link"),
    ],
)
def test_one_failing_query_costs_one_fact(monkeypatch: pytest.MonkeyPatch, query: str, fact: str) -> None:
    broken = FakeCard(fails={query: "NVMLError_NotSupported"})
    found = read(monkeypatch, fake_nvml(broken, FakeCard(uuid="GPU-2")))
    assert [device.id for device in found.devices] == ["GPU0", "GPU1"]
    assert getattr(found.devices[0], fact) is None
    assert getattr(found.devices[1], fact) is not None
    assert found.devices[0].free_bytes == 24000 * MIB


def test_an_older_driver_answers_the_first_version_of_the_memory_query(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = FakeCard(fails={"nvmlDeviceGetMemoryInfo_v2": "NVMLError_FunctionNotFound"})
    (device,) = read(monkeypatch, fake_nvml(card)).devices
    assert (device.total_bytes, device.free_bytes) == (24576 * MIB, 24000 * MIB)


@pytest.mark.parametrize(
    "card",
    [
        FakeCard(fails={"nvmlDeviceGetHandleByIndex": "NVMLError_GpuIsLost"}),
        FakeCard(fails={"nvmlDeviceGetMemoryInfo_v2": "NVMLError_GpuIsLost"}),
    ],
)
def test_a_lost_card_becomes_a_note(monkeypatch: pytest.MonkeyPatch, card: FakeCard) -> None:
    found = read(monkeypatch, fake_nvml(card, FakeCard()))
    assert [device.id for device in found.devices] == ["GPU1"]
    assert found.notes == ("NVIDIA card 0 is left out: NVMLError_GpuIsLost.",)


def test_a_card_in_mig_mode_becomes_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, fake_nvml(FakeCard(mig=1), FakeCard(mig=0)))
    assert [device.id for device in found.devices] == ["GPU1"]
    assert "MIG" in found.notes[0]


def test_a_card_without_memory_of_its_own_uses_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    no_memory = dict.fromkeys(
        ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"), "NVMLError_NotSupported"
    )
    found = read(monkeypatch, fake_nvml(FakeCard(name="NVIDIA GB10", fails=no_memory)))
    assert [(d.total_bytes, d.free_bytes) for d in found.devices] == [(64 * GIB, 48 * GIB)]
    assert found.devices[0].shares_host_memory


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("NVMLError_LibraryNotFound", "There is no NVIDIA driver on this machine."),
        ("NVMLError_DriverNotLoaded", "There is no NVIDIA driver on this machine."),
        (
            "NVMLError_LibRmVersionMismatch",
            "The NVIDIA driver does not answer: NVMLError_LibRmVersionMismatch.",
        ),
    ],
)
def test_a_note_says_why_there_are_no_cards(
    monkeypatch: pytest.MonkeyPatch, error: str, sentence: str
) -> None:
    assert read(monkeypatch, fake_nvml(FakeCard(), init_fails=error)) == ((), (sentence,))


def test_without_the_package_there_are_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, None)
    assert found.devices == ()
    assert "nvidia-ml-py" in found.notes[0]


def test_the_real_library() -> None:
    """Without a driver there is a note; with one, cards have plausible memory."""
    found = nvml.read_cards(HOST)
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        assert found == ((), ("There is no NVIDIA driver on this machine.",))
    else:
        assert found.devices or found.notes
        for device in found.devices:
            assert 0 <= device.free_bytes <= device.total_bytes


@pytest.mark.parametrize(
    ("text", "bus_id"),
    [
        ("00000000:01:00.0", "0000:01:00.0"),
        ("00000000:C1:00.0", "0000:c1:00.0"),
        ("0000ABCD:0A:1f.0", "abcd:0a:1f.0"),
        ("00010000:00:00.0", "10000:00:00.0"),
        ("0000:01:00.0", "0000:01:00.0"),
    ],
)
def test_bus_ids_are_those_of_llama_cpp(text: str, bus_id: str) -> None:
    assert nvml.normalise_bus_id(text) == bus_id


# Memory clocks as nvidia-smi -q prints them under Max Clocks, bus widths and GB/s of the datasheets.
KNOWN = [
    ("GeForce GTX 1080 Ti", 5505, 352),  # GDDR5X
    ("GeForce RTX 2080 Ti", 7000, 352),  # GDDR6
    ("GeForce RTX 3090", 9751, 384),  # GDDR6X
    ("GeForce RTX 3090 Ti", 10501, 384),
    ("GeForce RTX 4090", 10501, 384),
    ("GeForce RTX 4080 Laptop GPU", 9001, 192),
    ("GeForce RTX 5090", 14001, 512),  # GDDR7
    ("Tesla P40", 3615, 384),  # GDDR5
    ("Tesla T4", 5001, 256),
    ("Tesla P100-PCIE-16GB", 715, 4096),  # HBM2
    ("Tesla V100-SXM2-16GB", 877, 4096),
    ("A100-SXM4-40GB", 1215, 5120),
    ("A100-SXM4-80GB", 1593, 5120),  # HBM2e
    ("H100 80GB HBM3", 2619, 5120),
    ("H200", 3201, 6144),  # HBM3e
]


@pytest.mark.parametrize(("name", "clock_mhz", "bus_bits"), KNOWN)
def test_the_bandwidth_is_close_to_the_datasheets(name: str, clock_mhz: int, bus_bits: int) -> None:
    datasheet = catalog.find_card(name).bandwidth_bytes_per_s
    assert nvml.bandwidth_bytes_per_s(clock_mhz, bus_bits) == pytest.approx(datasheet, rel=0.025)


@pytest.mark.parametrize(
    ("environ", "ids", "note"),
    [
        ({}, [0, 1, 2], ""),
        ({"CUDA_VISIBLE_DEVICES": ""}, [], "hides 3 of 3"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, [], "hides 3 of 3"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-b"}, [1], "hides 2 of 3"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-c,GPU-a"}, [0, 2], "hides 1 of 3"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-c,GPU-x,GPU-a"}, [2], "hides 2 of 3"),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [0, 1, 2], "CUDA_DEVICE_ORDER=PCI_BUS_ID"),
        ({"CUDA_VISIBLE_DEVICES": "2, 0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [0, 2], "hides 1 of 3"),
        ({"CUDA_VISIBLE_DEVICES": "0,9,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [0], "hides 2 of 3"),
    ],
)
def test_hidden_cards(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], ids: list[int], note: str
) -> None:
    unlike = (FakeCard(uuid="GPU-a"), FakeCard(uuid="GPU-b", name="NVIDIA L4"), FakeCard(uuid="GPU-c"))
    found = nvml.visible_cards(read(monkeypatch, fake_nvml(*unlike)), environ)
    assert [device.id for device in found.devices] == [f"GPU{i}" for i in ids]
    assert note in "".join(found.notes)
    assert bool(found.notes) == bool(note)


def test_equal_cards_are_hidden_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, fake_nvml(FakeCard(), FakeCard()))
    shown = nvml.visible_cards(found, {"CUDA_VISIBLE_DEVICES": "1"})
    assert [device.id for device in shown.devices] == ["GPU1"]


def test_memory_in_use_by_all_programs_and_by_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_nvml(
        FakeCard(uuid="GPU-a", free_mib=20000, processes={1: 700, 2: 300}),
        FakeCard(uuid="GPU-b", free_mib=24276, processes={1: 50}),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    used = nvml.memory_usage(2)
    assert used.used_bytes == {"GPU-a": 4276 * MIB, "GPU-b": 0}
    assert used.process_bytes == {"GPU-a": 300 * MIB}
    assert used.driver_version == "580.65.06"
    assert nvml.memory_usage().process_bytes == {}
    assert fake.shut_down == 2


@pytest.mark.parametrize(
    ("card", "used_bytes", "process_bytes"),
    [
        (FakeCard(processes={1: None}), {"GPU-1111-2222": 276 * MIB}, {}),
        (
            FakeCard(processes={1: 9}, fails={"nvmlDeviceGetMemoryInfo_v2": "NVMLError_GpuIsLost"}),
            {},
            {"GPU-1111-2222": 9 * MIB},
        ),
        (
            FakeCard(fails={"nvmlDeviceGetComputeRunningProcesses": "NVMLError_NotSupported"}),
            {"GPU-1111-2222": 276 * MIB},
            {},
        ),
        (
            FakeCard(fails={"nvmlDeviceGetComputeRunningProcesses": "NVMLLibraryMismatchError"}),
            {"GPU-1111-2222": 276 * MIB},
            {},
        ),
        (FakeCard(fails={"nvmlDeviceGetUUID": "NVMLError_NotSupported"}), {}, {}),
        (FakeCard(fails={"nvmlDeviceGetHandleByIndex": "NVMLError_GpuIsLost"}), {}, {}),
    ],
)
def test_unreported_memory_in_use_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
    card: FakeCard,
    used_bytes: dict[str, int],
    process_bytes: dict[str, int],
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(card))
    assert nvml.memory_usage(1)[:2] == (used_bytes, process_bytes)


@pytest.mark.parametrize("module", [None, fake_nvml(init_fails="NVMLError_DriverNotLoaded")])
def test_without_a_driver_no_memory_is_reported(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert nvml.memory_usage(1) == ({}, {}, None)


def test_the_ways_between_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peer access counts in both directions."""
    fake = fake_nvml(
        FakeCard(uuid="a", peers=("b", "c"), nvlinks=("b",)),
        FakeCard(uuid="b", peers=("a",), nvlinks=("a",)),
        FakeCard(uuid="c"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    found = {"".join(sorted(pair.uuids)): pair for pair in nvml.card_pairs()}
    assert {name: (pair.has_peer_access, pair.has_nvlink) for name, pair in found.items()} == {
        "ab": (True, True),
        "ac": (False, False),
        "bc": (False, False),
    }
    assert fake.shut_down == 1


def test_no_driver_knows_no_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_nvml(FakeCard(), init_fails="NVMLError_DriverNotLoaded")
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert nvml.card_pairs() == ()
