"""The host memory that a plan leaves for states from the KV cache, and how it loads the file."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import machine, profile_of
from vram_llm.errors import BadPlan
from vram_llm.machine.types import DeviceKind
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.make_plan import ENOUGH_SLOTS_RAM_BYTES, make_plan
from vram_llm.planner.overrides import Override
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import Serving, Workload
from vram_llm.units import GIB


@pytest.mark.parametrize(
    ("host_gib", "kind", "least", "most"),
    [
        (64, DeviceKind.CUDA, ENOUGH_SLOTS_RAM_BYTES, ENOUGH_SLOTS_RAM_BYTES),
        (
            6,
            DeviceKind.CUDA,
            0.9 * GIB,
            1.2 * GIB,
        ),  # a quarter of 6 GiB less the reserve and the host's share
        (64, DeviceKind.RPC, 0, 0),  # it would have to cross the network
    ],
)
def test_slots_ram(tmp_path: Path, host_gib: int, kind: DeviceKind, least: float, most: float) -> None:
    rig = machine([24 * GIB], host_bytes=host_gib * GIB, kind=kind)
    plan = make_plan(profile_of(zoo.llama(), tmp_path), rig, Workload())
    assert plan.serving.slots_ram_bytes is not None
    assert least <= plan.serving.slots_ram_bytes <= most


def test_slots_ram_that_was_asked_for(tmp_path: Path) -> None:
    profile = profile_of(zoo.llama(), tmp_path)
    rig = machine([24 * GIB], host_bytes=16 * GIB)
    wish = Workload(serving=Serving(slots_ram_bytes=10 * GIB, cache_reuse=7))
    serving = make_plan(profile, rig, wish).serving
    assert replace(serving, idle_tokens=None) == wish.serving
    assert serving.idle_tokens is not None
    assert 0 < serving.idle_tokens * profile.kv_bytes_per_token < 0.03 * profile.active_bytes_per_token
    with pytest.raises(BadPlan, match=r"--slots-ram asks for 20.0 GiB and the host has 1\d\.\d GiB left"):
        make_plan(profile, rig, Workload(serving=Serving(slots_ram_bytes=20 * GIB)))


EXPERTS_ON_HOST = (Override.of_all(LayerPart.EXPERTS, "host"),)


@pytest.mark.parametrize(
    ("wish", "card_gib", "is_mapped"),
    [
        (Workload(), 48, True),  # every layer on the card
        (Workload(n_gpu_layers=0), 48, True),  # every layer on the host
        (Workload(n_gpu_layers=20), 48, False),
        (Workload(tensor_split=TensorSplit((1,)), overrides=EXPERTS_ON_HOST), 48, False),
        (Workload(n_gpu_layers=20, use_mmap=True), 48, True),
        (Workload(use_mmap=False), 48, False),
    ],
)
def test_a_file_is_read_if_a_card_and_the_host_share_layers(
    tmp_path: Path, wish: Workload, card_gib: int, is_mapped: bool
) -> None:
    rig = machine([card_gib * GIB], host_bytes=64 * GIB)
    plan = make_plan(profile_of(zoo.qwen3_moe(), tmp_path), rig, replace(wish, n_ctx=4096))
    assert plan.context.use_mmap is is_mapped
