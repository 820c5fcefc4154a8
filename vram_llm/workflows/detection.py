"""The facts for a plan: a model file and a machine."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.workflows.argument_types import check_type
from vram_llm.workflows.model_names import resolve

if TYPE_CHECKING:
    from vram_llm.machine.types import Machine
    from vram_llm.machine.worker_spec import WorkerSpec


def analyze(model: str) -> ModelProfile:
    """The profile of the model `model`, layer by layer.

    `model` is a GGUF file, any shard of a split file, a name that `vram-llm models` lists or a part of one
    ("gemma"), "https://..." or "hf:org/repo:Q4_K_M" (only the header is fetched), or "demo", the built-in
    model. Raises ModelNotFound, or ModelFileError and its subclasses.
    """
    check_type("model", model, str)
    return profile(read_header(resolve(model)))


def detect(
    gpus: str | Sequence[str] = (),
    rpc: str | Sequence[str] = (),
    *,
    ram: str | None = None,
    cpu: str | None = None,
    disk: str | None = None,
    workers: "Sequence[WorkerSpec]" = (),
    devices: str | Sequence[str] | None = None,
) -> "Machine":
    """The machine to plan for: the local devices, or the what-if cards `gpus` instead; and RPC workers.

    `gpus` are rigs like "RTX 4090 + 2x RTX 3060 12GB", whose cards are added up; one of them may name the
    host, as "RTX 3090 on 64GiB DDR4-3200 2ch" does. `rpc` are addresses like "10.0.0.2:50052@8GiB".

    `ram` ("64GiB DDR5-6000 2ch", "64GiB@80GB/s") and `cpu` ("Ryzen 9 7950X", "16 cores") describe a host that
    is not this computer, `disk` ("7GB/s") its disk, or without them this computer's.

    `workers` are further RPC workers. Tunnels to those over SSH stay open until this program ends.

    `devices` are the only ones to use, in this order: ids ("GPU0"), llama.cpp's names ("CUDA0"), numbers from
    0 or parts of a card's name. None: all; empty: the CPU alone.

    Raises UnknownDevice, BadHost, WorkerUnreachable.
    """
    from vram_llm.machine import calibration_store, overhead_store, sum_store
    from vram_llm.machine import detect as machines
    from vram_llm.machine.device_choice import with_devices
    from vram_llm.machine.what_if_host import HostDescription

    for name, text in (("ram", ram), ("cpu", cpu), ("disk", disk)):
        check_type(name, text, str, type(None))
    gpus, rpc, description = _as_tuple(gpus), _as_tuple(rpc), HostDescription(ram=ram, cpu=cpu, disk=disk)
    if gpus:
        machine = machines.what_if(gpus, description=description)
    else:
        from vram_llm.llama.registry import backends

        machine = overhead_store.with_overheads(machines.detect(backends()))
        machine = machines.with_host(machine, description)
    if rpc or workers:
        from vram_llm.llama.rpc import exposure_notes, worker_list
        from vram_llm.machine.worker_spec import worker_at

        wanted = (*map(worker_at, rpc), *workers)
        found = worker_list(wanted)
        notes = (*machine.notes, *exposure_notes(wanted))
        machine = dataclasses.replace(machine, devices=machine.devices + found, notes=notes)
    if devices is not None:
        machine = with_devices(machine, _as_tuple(devices))
    return sum_store.with_measured_sums(calibration_store.with_measured_speeds(machine))


def _as_tuple(values: str | Sequence[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)
