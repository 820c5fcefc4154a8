"""Real llama.cpp on the host and on a real worker: what is measured, kept, and handed to plans."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import msgspec
import pytest

from tests.patience import PATIENCE_S
from tests.workers import running_workers
from vram_llm.errors import EngineDied, ModelRefused, WorkerUnreachable
from vram_llm.llama.child_process import Refusal
from vram_llm.llama.measure import calibrate
from vram_llm.llama.measure.calibrate_wire import CalibrationRequest
from vram_llm.llama.random_model import RandomModelShape
from vram_llm.machine import calibration_store, json_store
from vram_llm.machine.types import Device, DeviceKind, Host, Machine, Source
from vram_llm.units import GIB, MIB
from vram_llm.workflows import detection, measurement

pytestmark = pytest.mark.process

QUICK_S = 0.1  # the least number of rounds


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(json_store.DATA_DIR_VARIABLE, str(tmp_path / "data"))
    monkeypatch.setattr(calibrate, "SECONDS", QUICK_S)


def test_the_host_and_a_worker(workers: tuple[str, ...]) -> None:
    before = detection.detect(rpc=workers[:1])
    assert (before.host.speed, before.devices[-1].speed) == (None, None)
    told: list[tuple[str, float]] = []
    found = {
        name: record
        for name, record, _ in measurement.calibrate(before, on_progress=lambda *news: told.append(news))
    }
    host, worker = found.values()
    for record in found.values():
        assert record.read_bytes_per_s > 0
        assert record.row_flops_per_s is not None
        assert record.row_flops_per_s > 0
        assert record.prompt_flops_per_s is not None
        assert record.prompt_flops_per_s > 0
        assert record.layer_overhead_s >= 0
        assert record.step_overhead_s >= 0
        assert record.residual >= 0
    assert host.threads is not None
    assert 1 <= host.threads <= before.host.cores
    assert host.types is not None
    assert host.types.keys() >= {"Q8_0", "Q4_K", "Q6_K", "MXFP4", "IQ2_XXS", "F16"}
    assert host.expert_read_share is not None
    assert 0 < host.expert_read_share <= 1
    assert host.attention_flops_per_s is not None
    assert host.split_s is None
    assert worker.split_s is not None
    assert worker.split_s >= 0
    assert (worker.types, worker.threads) == (None, None)
    assert host.link is None
    assert worker.link is not None
    assert worker.link.latency_s.value > 0
    assert worker.link.bytes_per_s.value > 0
    assert worker.link.send_bytes_per_s is not None
    assert [name for name, _ in told[:1]] == list(found)[:1]
    assert all(0 < share <= 1 for _, share in told)

    after = detection.detect(rpc=workers[:1])
    assert after.host.speed == host.speed
    again = after.devices[-1].speed
    assert again is not None
    assert again.read_bytes_per_s.source is Source.MEASURED
    # the link is measured again: on a busy computer it may have become slower
    measured = worker.speed
    assert replace(again, step_overhead_s=measured.step_overhead_s, split_s=measured.split_s) == measured

    assert set(calibration_store.forget([workers[0]])) == {workers[0]}
    assert detection.detect(rpc=workers[:1]).devices[-1].speed is None


def test_a_worker_that_is_gone(host: Host) -> None:
    with running_workers(1) as (endpoint,):
        machine = detection.detect(rpc=[endpoint])
    with pytest.raises(WorkerUnreachable, match=rf"no worker answers at {endpoint}"):
        calibrate.calibrate(machine.devices[-1], host, lambda _: None)


def test_a_device_with_too_little_room(workers: tuple[str, ...], host: Host) -> None:
    (device,) = detection.detect(rpc=[f"{workers[0]}@100MiB"]).devices[-1:]
    with pytest.raises(ModelRefused, match="100 MiB free are too little"):
        calibrate.calibrate(device, host, lambda _: None)


def test_a_child_that_says_nothing(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    monkeypatch.setattr(calibrate, "_SILENCE_S", 0.0)
    with pytest.raises(EngineDied, match="sent nothing for 0 s while the host was measured"):
        calibrate.calibrate(None, host, lambda _: None)


def test_a_card_that_is_not_here_is_passed_over(host: Host) -> None:
    card = Device(
        id="GPU0", name="RTX 3090", kind=DeviceKind.CUDA, total_bytes=MIB, free_bytes=MIB,
        memory_source=Source.CATALOG, what_if=True,
    )  # fmt: skip
    machine = Machine(devices=(card,), host=host)
    stored = measurement.calibrate(machine)
    assert [calibration.key for calibration in stored] == [calibration_store.device_key(host)]


def test_the_child_names_the_error_it_met() -> None:
    gone = Device(
        id="GPU0", name="RTX 3090", kind=DeviceKind.CUDA, total_bytes=MIB, free_bytes=MIB,
        memory_source=Source.DRIVER, pci_bus_id="0000:99:00.0",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "vram_llm.llama.measure.calibrate_worker"],
        input=msgspec.json.encode(CalibrationRequest(gone, (1,), GIB, QUICK_S)),
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
    )
    refusal = msgspec.json.decode(done.stdout, type=Refusal)
    assert refusal.kind == "BadPlan"
    assert "does not list RTX 3090" in refusal.sentence


def test_only_models_for_measuring_speed_have_random_weights(tmp_path: Path) -> None:
    shape = RandomModelShape(n_embd=256, n_ff=512, n_layers=2, n_head=4, n_head_kv=2, n_vocab=256)
    assert shape.write_sparse(tmp_path / "sparse.gguf").stat().st_blocks < 100
    tensors = gguf.GGUFReader(shape.write_random(tmp_path / "random.gguf")).tensors
    for tensor in tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if "norm" in tensor.name:
            assert (values == 1).all()
        else:
            assert 0.019 < values.std() < 0.021
