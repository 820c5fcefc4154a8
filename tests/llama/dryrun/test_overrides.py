"""Dry runs of placements that move weights of experts and feed-forward networks to other devices."""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.llama.dryrun.test_client import (
    CARDS,
    a_context,
    loaded_bytes,
    nonzero_bytes,
    random_context,
    random_placement,
)
from tests.zoo import PUBLISHED, gpt_oss, write
from tests.zoo.loadable import LOADABLE, write_loadable
from vram_llm.llama import rpc
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.types import Host
from vram_llm.model.header import Header
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.llama_split import device_of_layers, placement_of
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST, FlashAttention, Placement

pytestmark = pytest.mark.process

MODELS = PUBLISHED | {"gpt_oss_120b": gpt_oss}
N_PLACEMENTS = 4  # of each model
N_LOADS = 12  # of each model that is loaded


@pytest.fixture(scope="module")
def dry() -> Iterator[DryRun]:
    with DryRun() as dry_run:
        dry_run.check()
        yield dry_run


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Header]:
    folder = tmp_path_factory.mktemp("zoo")
    return {name: read_header(write(MODELS[name](), folder / f"{name}.gguf")) for name in MODELS}


def with_random_overrides(pick: random.Random, of: ModelProfile, placement: Placement) -> Placement:
    """`placement` with parts of some of its devices' layers on other devices or on the host."""
    ids = [*placement.device_order, HOST]
    part = LayerPart.EXPERTS if of.n_expert else pick.choice((LayerPart.FFN, LayerPart.FFN_DOWN))
    homes = placement.layer_devices()
    moved: dict[str, list[int]] = {}
    for layer in of.layers:
        if homes[layer.index] != HOST and layer.tensors_of(part) and pick.random() < 0.5:
            moved.setdefault(pick.choice(ids), []).append(layer.index)
    overrides = tuple(Override.of(part, layers, device) for device, layers in moved.items())
    assignment = device_of_layers(of.n_layers, placement.n_gpu_layers, placement.tensor_split)
    return placement_of(placement.device_order, assignment, overrides)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("change", [{}, {"op_offload": True}, {"kv_offload": False}], ids=str)
def test_the_analytic_meter_is_an_upper_bound_of_the_dry_run(
    name: str, change: dict[str, bool], dry: DryRun, host: Host, headers: dict[str, Header]
) -> None:
    """Weights and context are equal, also if a device computes with weights or a cache of the host."""
    of, pick = profile(headers[name]), random.Random(f"{name} {change}")
    for _ in range(N_PLACEMENTS):
        context = a_context(
            n_ubatch=pick.choice((64, 512, 2048)), flash_attn=pick.choice(list(FlashAttention)), **change
        )
        placement = random_placement(pick, [card.id for card in CARDS], of.n_layers)
        placement = with_random_overrides(pick, of, placement)
        measured = dry.meter(headers[name], context, CARDS, host, 0)(placement)
        bound = AnalyticMeter(of, context, CARDS, host, 0)(placement)
        pairs = zip((*measured.devices, measured.host), (*bound.devices, bound.host), strict=True)
        for use, use_bound in pairs:
            assert use.weights_bytes == pytest.approx(use_bound.weights_bytes, rel=1e-4), placement
            assert use.context_bytes == use_bound.context_bytes, placement
            assert use.compute_bytes <= 1.03 * use_bound.compute_bytes, placement


@pytest.mark.parametrize("name", ["llama_8b", "qwen3_30b"])
def test_copies_of_the_hosts_weights_are_on_the_first_device(
    name: str, dry: DryRun, host: Host, headers: dict[str, Header]
) -> None:
    """Only in prompts, and only on that device: decode steps of few sequences do not change."""
    of = profile(headers[name])
    part = LayerPart.EXPERTS if of.n_expert else LayerPart.FFN
    moved = Override.of(part, range(of.n_layers), HOST)
    assignment = [i * 3 // (of.n_layers + 1) for i in range(of.n_layers + 1)]
    placement = placement_of([card.id for card in CARDS], assignment, (moved,))
    plain, offloading, few = (
        dry.meter(headers[name], a_context(op_offload=op_offload, n_ubatch=n), CARDS, host, 0)(placement)
        for op_offload, n in ((False, 512), (True, 512), (True, 16))
    )
    largest = max(tensor.n_bytes for layer in of.layers for tensor in layer.tensors_of(part))
    assert offloading.devices[0].compute_bytes > plain.devices[0].compute_bytes + largest / 2
    assert offloading.devices[0].compute_bytes > largest
    assert all(one.compute_bytes < 1.1 * other.compute_bytes for one, other in
               zip(offloading.devices[1:], plain.devices[1:], strict=True))  # fmt: skip
    assert offloading.host.compute_bytes < plain.host.compute_bytes
    assert few.devices[0].compute_bytes < plain.devices[0].compute_bytes
    assert offloading.graph_splits == plain.graph_splits == few.graph_splits == 2 * of.n_layers + 2
    assert (offloading.prompt_graph_splits or 0) > (plain.prompt_graph_splits or 0)
    assert few.prompt_graph_splits == plain.prompt_graph_splits


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek2", "gpt_oss", "nemotron_h", "dense"])
def test_a_load_with_moved_weights_is_to_the_byte(
    name: str, dry: DryRun, workers: tuple[str, ...], host: Host, tmp_path: Path
) -> None:
    """Weights, context and compute of loads on three workers and the host, with and without mmap."""
    path = write_loadable(LOADABLE[name](), tmp_path / f"{name}.gguf")
    header = read_header(path)
    of, devices, pick = profile(header), rpc.devices(workers), random.Random(name)
    virtual = [dataclasses.replace(device, endpoint=None, what_if=True) for device in devices]
    for number in range(N_LOADS):
        placement = random_placement(pick, [device.id for device in devices], of.n_layers)
        placement = with_random_overrides(pick, of, placement)
        context = dataclasses.replace(random_context(pick, of), use_mmap=number % 2 == 0)
        measured = dry.meter(header, context, virtual, host, 0)(placement)
        loaded = loaded_bytes(path, devices, context, measured, placement)
        assert nonzero_bytes(measured) == loaded, placement
