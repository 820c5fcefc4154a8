"""The dry run of placements that move experts and feed-forward networks away from their layers."""

import random
from collections.abc import Iterator

import pytest

from tests.llama.dryrun.test_client import CARDS, a_context, random_placement
from tests.zoo import PUBLISHED, write
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.types import Host
from vram_llm.model.header import Header
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.llama_split import device_of_layers, placement_of
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST, Placement

pytestmark = pytest.mark.process

N_PLACEMENTS = 4  # of each model


@pytest.fixture(scope="module")
def dry() -> Iterator[DryRun]:
    with DryRun() as made:
        made.check()
        yield made


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Header]:
    folder = tmp_path_factory.mktemp("zoo")
    return {name: read_header(write(PUBLISHED[name](), folder / f"{name}.gguf")) for name in PUBLISHED}


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


@pytest.mark.parametrize("name", PUBLISHED)
def test_moved_weights_are_counted_where_they_are(
    name: str, dry: DryRun, host: Host, headers: dict[str, Header]
) -> None:
    of, context = profile(headers[name]), a_context()
    exact = dry.meter(headers[name], context, CARDS, host, 0)
    analytic = AnalyticMeter(of, context, CARDS, host, 0)
    pick = random.Random(name)
    for _ in range(N_PLACEMENTS):
        placement = with_random_overrides(
            pick, of, random_placement(pick, [card.id for card in CARDS], of.n_layers)
        )
        measured, bound = exact(placement), analytic(placement)
        for one, other in zip((*measured.devices, measured.host), (*bound.devices, bound.host), strict=True):
            assert one.weights_bytes == pytest.approx(other.weights_bytes, rel=1e-4), placement
        for one, other in zip(measured.devices, bound.devices, strict=True):
            assert one.context_bytes == other.context_bytes
            assert one.compute_bytes <= 1.05 * other.compute_bytes, placement
