"""The steps to the least memory: what they save and cost, where the weights are, which flags ask for them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import profile_of
from vram_llm.errors import BadPlan
from vram_llm.machine.types import Host, Machine
from vram_llm.machine.what_if import parse_rigs
from vram_llm.model.tensors import Role
from vram_llm.planner.floor import KV_TYPES, FloorRow, MemoryFloor, memory_floor
from vram_llm.planner.types import Workload
from vram_llm.units import GIB, MIB

pytestmark = pytest.mark.process  # computes for many seconds

HOST = Host(name="desk", cores=8, total_bytes=128 * GIB, available_bytes=120 * GIB)


def rig(*cards: str, ram_gib: int = 120) -> Machine:
    host = dataclasses.replace(HOST, available_bytes=ram_gib * GIB)
    return Machine(devices=parse_rigs(cards).devices if cards else (), host=host)


def floor_of(
    model: zoo.Model, machine: Machine, folder: Path, workload: Workload | None = None
) -> MemoryFloor:
    return memory_floor(profile_of(model, folder), machine, workload or Workload())


def names(floor: MemoryFloor) -> list[str]:
    return [step.name for step in floor.steps]


@pytest.mark.parametrize(
    ("model", "cards", "moves"),
    [
        (zoo.llama, ("RTX 4090",), ["ffn_down on the CPU", "FFN on the CPU"]),
        (zoo.qwen3_moe, ("RTX 5090",), ["experts on the CPU"]),
        (zoo.deepseek2, ("RTX 4090",), ["experts on the CPU", "FFN on the CPU"]),
        (zoo.nemotron_nano, ("RTX 3060", "RTX 4090"), ["experts on the CPU"]),
        (zoo.gemma3, ("2x RTX 3090",), ["ffn_down on the CPU", "FFN on the CPU"]),
    ],
)
def test_each_step_saves_and_the_last_has_nothing_on_a_card(
    model: Callable[[], zoo.Model], cards: tuple[str, ...], moves: list[str], tmp_path: Path
) -> None:
    floor = floor_of(model(), rig(*cards, ram_gib=1000), tmp_path)
    first, *others = floor.steps
    assert (first.name, first.saved_bytes) == ("everything on the cards", None)
    assert [name for name in names(floor) if name.endswith("on the CPU")][: len(moves)] == moves
    for before, step in zip(floor.steps, others, strict=False):
        assert step.saved_bytes == before.vram_bytes - step.vram_bytes > 0
        if before.tokens_per_s is not None and step.tokens_per_s is not None:
            assert step.cost == pytest.approx(1 - step.tokens_per_s / before.tokens_per_s)
    last = floor.steps[-1]
    assert (last.name, last.vram_bytes, last.fits) == ("everything on the CPU", 0, True)
    assert floor.floor is not None
    assert floor.floor.cpu_layers == 0
    assert floor.floor.name == moves[-1]


def test_experts_on_the_host_save_their_bytes(tmp_path: Path) -> None:
    profile = profile_of(zoo.qwen3_moe(), tmp_path)
    floor = memory_floor(profile, rig("RTX 5090"), Workload())
    experts = sum(
        tensor.n_bytes for layer in profile.layers for tensor in layer.tensors if tensor.role is Role.EXPERT
    )
    moved = next(step for step in floor.steps if step.name == "experts on the CPU")
    before = floor.steps[floor.steps.index(moved) - 1]
    assert moved.saved_bytes == pytest.approx(experts, rel=0.01)
    assert moved.ram_bytes - before.ram_bytes == pytest.approx(experts, rel=0.02)
    assert moved.flags[-1] == "--cpu-moe"


def test_flags_hold_all_changes(tmp_path: Path) -> None:
    floor = floor_of(zoo.llama(), rig("2x RTX 3060"), tmp_path, Workload(n_ctx=16384, n_ubatch=1024))
    flags = {step.name: " ".join(step.flags) for step in floor.steps}
    assert flags["everything on the cards"].startswith("--n-ctx 16k --n-gpu-layers 33 --tensor-split GPU0=")
    assert flags["FFN on the CPU"] == (
        "--n-ctx 16k --parallel 1 --n-ubatch 128 --no-pipeline --kv-type q8_0 --no-op-offload "
        "--n-gpu-layers 33 --tensor-split GPU0=33 --override-tensor ffn:all=CPU"
    )
    assert flags["everything on the CPU"].endswith("--kv-type q8_0 --no-op-offload --n-gpu-layers 0")
    assert "16 of 32 layers on the CPU" in flags


def test_without_a_card_the_host_is_all(tmp_path: Path) -> None:
    floor = floor_of(zoo.llama(), rig(), tmp_path)
    assert names(floor)[0] == "as asked for"
    assert not any("CPU" in name for name in names(floor))
    assert (floor.has_cards, floor.least) == (False, ())
    for before, step in zip(floor.steps, floor.steps[1:], strict=False):
        assert step.saved_bytes == before.ram_bytes - step.ram_bytes
        assert step.vram_bytes == 0
        assert "--tensor-split" not in step.flags


def test_a_host_that_is_too_small_takes_some_layers(tmp_path: Path) -> None:
    floor = floor_of(zoo.qwen3_moe(), rig("24GB@1000GB/s", ram_gib=16), tmp_path)
    some = next(step for step in floor.steps if step.name.startswith("experts of "))
    rest = next(step for step in floor.steps if step.name == "experts on the CPU")
    assert some.fits
    assert not rest.fits
    assert rest.short_ram_bytes > 0
    assert rest.tokens_per_s is None
    assert floor.floor == some
    count = int(some.name.split()[2])
    assert 0 < count < 48
    assert some.flags[-2:] == ("--n-cpu-moe", str(count))
    assert 16 * GIB - GIB - some.ram_bytes < GIB  # one layer's experts are less


def test_nothing_fits(tmp_path: Path) -> None:
    floor = floor_of(zoo.deepseek2(), rig("RTX 3060", ram_gib=16), tmp_path)
    assert floor.floor is None
    assert all(step.short_vram_bytes or step.short_ram_bytes for step in floor.steps)


@pytest.mark.parametrize(
    ("trained", "contexts"),
    [
        (131_072, [4096, 8192, 16_384, 32_768, 65_536, 131_072]),
        (40_960, [4096, 8192, 16_384, 32_768, 40_960]),
        (2048, [2048]),
    ],
)
def test_contexts_up_to_the_trained_one(trained: int, contexts: list[int], tmp_path: Path) -> None:
    model = zoo.llama()
    model.keys["context_length"] = trained
    floor = floor_of(model, rig("RTX 4090"), tmp_path)
    for rows in (floor.on_cards, floor.least):
        assert [(row.n_ctx, row.kv_type) for row in rows] == [
            (n, kind) for n in contexts for kind in KV_TYPES
        ]


def test_memory_grows_with_the_context_and_shrinks_with_the_type(tmp_path: Path) -> None:
    floor = floor_of(zoo.llama(), rig("H200"), tmp_path)

    def at(rows: tuple[FloorRow, ...], n_ctx: int, kv_type: str) -> FloorRow:
        return next(row for row in rows if (row.n_ctx, row.kv_type) == (n_ctx, kv_type))

    kv_bytes = 2 * 32 * 8 * 128 * 2  # of a token: K and V, layers, heads, head size, f16
    for rows in (floor.on_cards, floor.least):
        more = at(rows, 65_536, "f16").vram_bytes - at(rows, 32_768, "f16").vram_bytes
        assert more == pytest.approx(32_768 * kv_bytes, rel=0.05)
        saved = at(rows, 65_536, "f16").vram_bytes - at(rows, 65_536, "q8_0").vram_bytes
        assert saved == pytest.approx(65_536 * kv_bytes * (1 - 34 / 64), rel=0.1)
        speeds = [at(rows, n_ctx, "f16").tokens_per_s or 0 for n_ctx in (4096, 32_768, 131_072)]
        assert speeds == sorted(speeds, reverse=True)
    assert at(floor.least, 8192, "q4_0").vram_bytes < at(floor.on_cards, 8192, "q4_0").vram_bytes


def test_a_model_without_a_quantised_cache_has_one_type(tmp_path: Path) -> None:
    floor = floor_of(zoo.mamba2(), rig("RTX 4090"), tmp_path)
    assert {row.kv_type for row in floor.on_cards} == {"f16"}


def test_a_step_that_saves_nothing_is_left_out(tmp_path: Path) -> None:
    floor = floor_of(zoo.llama(), rig("RTX 4090"), tmp_path, Workload(parallel=1, n_ubatch=64))
    assert "one sequence" not in names(floor)
    assert not any("micro-batches" in name for name in names(floor))
    assert all(step.saved_bytes is None or step.saved_bytes >= MIB for step in floor.steps)


def test_a_dictated_placement_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="the memory floor places the model itself: leave"):
        floor_of(zoo.llama(), rig("RTX 4090"), tmp_path, Workload(n_gpu_layers=3))
