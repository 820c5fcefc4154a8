"""Published command lines of llama-server: the plan's placement is llama.cpp's own, to the byte.

llama.cpp gets the original line by reference.py. A line that does not fit its rig is refused there, and is
compared on the same cards with more memory: a split by free memory has the same shares.
"""

import dataclasses
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import zoo
from tests.cli.llama_server_line.reference import Answer, Question, QuestionedDevice
from tests.cli.llama_server_line.shapes import MAKERS
from tests.patience import PATIENCE_S
from vram_llm.cli.fleet_config import read_serve
from vram_llm.cli.llama_server_line.devices import LlamaDevices
from vram_llm.cli.llama_server_line.translation import translate
from vram_llm.errors import DoesNotFit
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.device_choice import with_devices
from vram_llm.machine.types import Device, DeviceKind, Machine
from vram_llm.model.tensors import layer_of
from vram_llm.planner.overrides import overriding_device
from vram_llm.planner.types import HOST, Plan
from vram_llm.units import GIB
from vram_llm.workflows import detection, planning

pytestmark = pytest.mark.process
_LINES = tomllib.loads(Path(__file__).with_name("llama_server_lines.toml").read_text())["line"]
_HOST_BYTES = 1024 * GIB  # no line names its host's memory
_TIMES = 16  # more memory for what does not fit


@dataclass(frozen=True, slots=True)
class Published:
    """A line, and the rig that it is for."""

    source: str
    words: list[str]
    path: Path
    machine: Machine

    def plan(self, dry: DryRun, *, reserve_mib: int = 0) -> Plan:
        """The plan for `vram-llm llama-server LINE` on the rig."""
        line = ["-m", str(self.path), *self.words]
        found = translate(line, {}, lambda: LlamaDevices.of(self.machine.devices))
        arguments = [*found.arguments(), "--config", "none", "--reserve-mib", str(reserve_mib)]
        options = read_serve(arguments).options
        rig = self.machine if options.device is None else with_devices(self.machine, options.device)
        return planning.plan(str(self.path), rig, options.workload, dry, compares=False)

    def roomier(self) -> "Published":
        """The same with more memory on each card."""
        devices = tuple(
            dataclasses.replace(
                device, free_bytes=device.free_bytes * _TIMES, total_bytes=device.total_bytes * _TIMES
            )
            for device in self.machine.devices
        )
        return dataclasses.replace(self, machine=dataclasses.replace(self.machine, devices=devices))


@pytest.fixture(scope="module")
def dry() -> Iterator[DryRun]:
    with DryRun() as asked:
        yield asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def _published(row: dict[str, Any], folder: Path) -> Published:
    maker, common = row["model"].split()
    path = folder / f"{maker}-{common}.gguf"
    if not path.exists():
        zoo.write(MAKERS[maker](), path, common)
    cards = [card for card in row["rig"] if not card.startswith("rpc ")]
    machine = detection.detect(cards, ram="1024GiB")
    workers = (card for card in row["rig"] if card.startswith("rpc "))
    remote = tuple(_worker(card, f"RPC{number}") for number, card in enumerate(workers))
    host = dataclasses.replace(machine.host, available_bytes=_HOST_BYTES, total_bytes=_HOST_BYTES)
    return Published(
        row["source"],
        shlex.split(row["line"]),
        path,
        dataclasses.replace(machine, host=host, devices=(*machine.devices, *remote)),
    )


def _worker(text: str, device_id: str) -> Device:
    """A card behind an RPC worker, from "rpc CARD ADDRESS"."""
    _, card, endpoint = re.split(r"^rpc | (?=\S+$)", text)
    (device,) = detection.detect([card]).devices
    return dataclasses.replace(device, id=device_id, kind=DeviceKind.RPC, endpoint=endpoint, row_padding=0)


def _llama_names(machine: Machine, words: list[str]) -> dict[str, str]:
    """llama.cpp's names of the devices by their ids; RPC devices as the line writes them."""
    names, cards = {}, 0
    for device in machine.devices:
        if device.kind is DeviceKind.RPC:
            names[device.id] = f"RPC[{device.endpoint}]"
        else:
            names[device.id] = f"CUDA{cards}"
            cards += 1
    return names


def _reference(line: Published, n_rows: int | None) -> Answer:
    names = _llama_names(line.machine, line.words)
    devices = [
        QuestionedDevice(
            names[device.id], device.kind, device.alignment_bytes, device.row_padding, device.free_bytes
        )
        for device in line.machine.devices
    ]
    question = Question(str(line.path), line.words, devices, n_rows)
    asked = subprocess.run(
        [sys.executable, "-m", "tests.cli.llama_server_line.reference"],
        input=msgspec.json.encode(question), capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr.decode()[-2000:]
    return msgspec.json.decode(asked.stdout, type=Answer)


def _bytes(plan: Plan) -> dict[str, tuple[int, int, int]]:
    uses = {use.id: use.use for use in plan.estimate.devices} | {HOST: plan.estimate.host.use}
    return {id: (use.weights_bytes, use.context_bytes, use.compute_bytes) for id, use in uses.items()}


def _device_of(plan: Plan, tensor: str) -> str | None:
    """The device of a tensor in the plan; None: the plan does not name one of its own."""
    moved = overriding_device(plan.placement.overrides, tensor)
    if moved is not None:
        return moved
    place = layer_of(tensor)
    if place is not None and place[0] < plan.model.n_layers:
        return plan.placement.layer_devices()[place[0]]
    return plan.placement.output_device if tensor.startswith("output") else None


@pytest.mark.parametrize("row", _LINES, ids=[row["source"].partition(",")[0] for row in _LINES])
def test_the_placement_is_llama_cpps_own(row: dict[str, Any], folder: Path, dry: DryRun) -> None:
    line = _published(row, folder)
    if row.get("refused"):
        with pytest.raises(DoesNotFit, match=r"GiB|MiB"):
            line.plan(dry)
        line = line.roomier()
    plan = line.plan(dry)
    assert plan.estimate.method == "dry run"
    names = {**_llama_names(line.machine, line.words), HOST: HOST}
    reference = _reference(line, plan.context.n_outputs)
    ours = {names[id]: found for id, found in _bytes(plan).items()}
    assert ours == {name: found for name, found in reference.bytes.items() if name in ours}
    assert not any(sum(found) for name, found in reference.bytes.items() if name not in ours)
    for tensor, device in reference.tensors.items():
        own = _device_of(plan, tensor)
        assert own is None or names[own] == device, tensor
