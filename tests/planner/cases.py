"""Machines and profiles the plan tests are about."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tests import zoo
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Link, Machine, Source, Speed
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.model.tensors import Role, Tensor
from vram_llm.units import GIB, MIB

LAPTOP = 12 * GIB
DESKTOP = 24 * GIB


def card(index: int, free_bytes: int, kind: DeviceKind = DeviceKind.CUDA) -> Device:
    """A what-if device of some memory."""
    return Device(
        id=f"GPU{index}",
        name=f"card {index}",
        kind=kind,
        total_bytes=free_bytes,
        free_bytes=free_bytes,
        memory_source=Source.GIVEN,
        row_padding=512 if kind is DeviceKind.CUDA else 0,
        what_if=True,
    )


def machine(
    free_bytes: Sequence[int], *, host_bytes: int = 64 * GIB, kind: DeviceKind = DeviceKind.CUDA
) -> Machine:
    """A machine with a card for each figure."""
    host = Host(name="test", cores=4, total_bytes=host_bytes, available_bytes=host_bytes)
    return Machine(devices=tuple(card(i, free, kind) for i, free in enumerate(free_bytes)), host=host)


def speed(
    read_gb_s: float,
    *,
    layer_us: float = 0.0,
    step_us: float = 0.0,
    row_tflops: float | None = 10.0,
    prompt_tflops: float | None = 50.0,
    source: Source = Source.MEASURED,
) -> Speed:
    """A speed in the units of datasheets."""
    row, prompt = (
        None if tera is None else Fact(tera * 1e12, source) for tera in (row_tflops, prompt_tflops)
    )
    return Speed(
        read_bytes_per_s=Fact(read_gb_s * 1e9, source),
        layer_overhead_s=Fact(layer_us * 1e-6, source),
        step_overhead_s=Fact(step_us * 1e-6, source),
        row_flops_per_s=row,
        prompt_flops_per_s=prompt,
    )


def link(gb_s: float) -> Link:
    """A link of some bandwidth."""
    return Link(latency_s=Fact(1e-5, Source.MEASURED), bytes_per_s=Fact(gb_s * 1e9, Source.MEASURED))


def with_speeds(machine: Machine, *speeds: Speed | None) -> Machine:
    """`machine` with a speed for each of its devices."""
    pairs = zip(machine.devices, speeds, strict=True)
    return dataclasses.replace(
        machine, devices=tuple(dataclasses.replace(device, speed=each) for device, each in pairs)
    )


def profile_of(model: zoo.Model, folder: Path, *, shard_bytes: int = 0) -> ModelProfile:
    """The profile of a header-only model."""
    return profile(read_header(zoo.write(model, folder / "model.gguf", shard_bytes=shard_bytes)))


def resized(profile: ModelProfile, layer_mib: Sequence[int], outside_mib: int = 8) -> ModelProfile:
    """`profile` with layers of other sizes, in MiB, and input and output of `outside_mib` each.

    Every layer is one tensor, so that what a placement holds can be added up by hand.
    """
    pattern = profile.layers[0].tensors[0]

    def tensor(name: str, mib: int) -> Tensor:
        return dataclasses.replace(pattern, name=name, n_bytes=mib * MIB, shape=(512, 1))

    layers = tuple(
        dataclasses.replace(
            profile.layers[0],
            index=i,
            tensors=(tensor(f"blk.{i}.w", mib),),
            bytes=mib * MIB,
            active_bytes=mib * MIB,
        )
        for i, mib in enumerate(layer_mib)
    )
    return dataclasses.replace(
        profile,
        n_layers=len(layers),
        layers=layers,
        input_tensors=(tensor("token_embd.weight", outside_mib),),
        output_tensors=(tensor("output.weight", outside_mib),),
        shared_tensors=(),
    )


def with_parts(
    profile: ModelProfile, layer_mib: Sequence[tuple[int, int]], *, dense: bool = False, outside_mib: int = 8
) -> ModelProfile:
    """`profile` with layers of attention and of eight experts or a dense network, sizes in MiB.

    A token uses one expert. The second size is that of each of the three matrices; 0: the layer has none.
    """
    pattern, role = profile.layers[0].tensors[0], Role.FFN if dense else Role.EXPERT

    def tensor(name: str, mib: int, role: Role) -> Tensor:
        shape = (512, 512, 8) if role is Role.EXPERT else (512, 1)
        return dataclasses.replace(pattern, name=name, n_bytes=mib * MIB, shape=shape, role=role)

    layers = []
    for i, (attention_mib, part_mib) in enumerate(layer_mib):
        suffix = "" if dense else "_exps"
        names = [f"blk.{i}.ffn_{part}{suffix}.weight" for part in ("up", "gate", "down") if part_mib]
        moved, moved_bytes = [tensor(name, part_mib, role) for name in names], len(names) * part_mib * MIB
        attention = tensor(f"blk.{i}.attn_q.weight", attention_mib, Role.ATTENTION)
        idle = 0 if dense else moved_bytes * 7 // 8
        layers.append(
            dataclasses.replace(
                profile.layers[0],
                index=i,
                tensors=(attention, *moved),
                bytes=attention.n_bytes + moved_bytes,
                active_bytes=attention.n_bytes + moved_bytes - idle,
                attention_bytes=attention.n_bytes,
                ffn_bytes=moved_bytes if dense else 0,
                expert_bytes=0 if dense else moved_bytes,
            )
        )
    return dataclasses.replace(
        profile,
        n_expert=0 if dense else 8,
        n_expert_used=0 if dense else 1,
        n_layers=len(layers),
        layers=tuple(layers),
        input_tensors=(tensor("token_embd.weight", outside_mib, Role.TOKEN_EMBD),),
        output_tensors=(tensor("output.weight", outside_mib, Role.OUTPUT),),
        shared_tensors=(),
    )
