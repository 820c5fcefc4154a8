"""A model lies on as few devices as hold it, the preferred first."""

from dataclasses import replace

import pytest

from tests import zoo
from tests.planner.cases import profile_of
from vram_llm.machine.types import Host, Machine
from vram_llm.machine.what_if import parse_rigs
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.context import resolve_context
from vram_llm.planner.fewest_cards import on_fewest_devices
from vram_llm.planner.overrides import Override
from vram_llm.planner.search.candidate import analytic
from vram_llm.planner.types import HOST, Meter, Placement, Workload
from vram_llm.units import GIB

WORKLOAD = Workload(n_ctx=4096, pipeline_copies=False)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    """A llama of 8 GiB in 32 layers."""
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("model"))


def rig(*sizes: str) -> Machine:
    host = Host(name="desk", cores=8, total_bytes=64 * GIB, available_bytes=60 * GIB)
    return Machine(devices=parse_rigs(sizes).devices, host=host)


def placed(
    profile: ModelProfile, machine: Machine, n_host: int = 0, overrides: tuple[Override, ...] = ()
) -> tuple[Placement, Meter]:
    meter = analytic(profile, machine, WORKLOAD, resolve_context(profile, machine, WORKLOAD))
    ids = [device.id for device in machine.devices]
    return on_fewest_devices(ids, profile.n_layers + 1, n_host, overrides, meter), meter


@pytest.mark.parametrize(
    ("sizes", "used"),
    [
        (("24GiB", "24GiB"), ("GPU0",)),
        (("6GiB", "24GiB"), ("GPU1",)),  # one that holds all goes before two
        (("8GiB", "6GiB", "6GiB"), ("GPU0", "GPU1")),
        (("5GiB", "5GiB", "5GiB"), ("GPU0", "GPU1", "GPU2")),
        (("2GiB", "2GiB"), ("GPU0", "GPU1")),  # and not enough
    ],
)
def test_which_devices(profile: ModelProfile, sizes: tuple[str, ...], used: tuple[str, ...]) -> None:
    machine = rig(*sizes)
    placement, meter = placed(profile, machine)
    assert placement.device_order == used
    assert sum(placement.layers_per_device) == profile.n_layers
    estimate = meter(placement)
    over = {use.id: use.over_bytes for use in estimate.devices}
    assert all(n_bytes <= 0 for n_bytes in list(over.values())[:-1])
    assert (over[used[-1]] > 0) == (sizes == ("2GiB", "2GiB"))
    if len(used) > 1:  # one more layer on the first is too much
        first, second, *rest = placement.layers_per_device
        more = replace(placement, layers_per_device=(first + 1, second - 1, *rest))
        assert meter(more).devices[0].over_bytes > 0


def test_items_on_the_host_and_moved_weights(profile: ModelProfile) -> None:
    ffn = (Override.of_all(LayerPart.FFN, HOST),)
    whole, meter = placed(profile, rig("6GiB", "6GiB"))
    moved, _ = placed(profile, rig("6GiB", "6GiB"), overrides=ffn)
    half, _ = placed(profile, rig("6GiB", "6GiB"), n_host=16)
    assert (len(whole.device_order), moved.device_order, half.device_order) == (2, ("GPU0",), ("GPU0",))
    assert (moved.overrides, half.cpu_layers) == (ffn, 16)
    assert meter(moved).fits
    assert meter(half).fits
