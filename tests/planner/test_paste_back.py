"""Flags that plans and refusals print, typed after those of the plan, give the placement they stand for.

Random rigs, models and options, by the analytic meter; tests/cli/test_next_command.py does so by the dry run.
"""

import dataclasses
import random

import pytest

from tests import zoo
from tests.cli.typed import printed_flags, typed
from tests.planner.cases import card, machine, speed
from tests.planner.cases import profile_of as header_profile
from vram_llm.cli.tables import print_plan
from vram_llm.errors import BadPlan, DoesNotFit
from vram_llm.machine.types import Device, DeviceKind, Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.llama_split import placement_flags
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.search.prompt_choice import plan_with_prompts
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.types import Plan
from vram_llm.units import GIB

pytestmark = pytest.mark.process  # computes for many seconds

MODELS = {**zoo.PUBLISHED, **zoo.SMALL}
N_PLANS = 80
OPTIONS = (
    ("--n-ctx", ("2k", "8k", "20000", "64k", "128k", "max")),
    ("--kv-type", ("f16", "q8_0", "q4_0")),
    ("--parallel", ("1", "2", "8", "16")),
    ("--n-ubatch", ("128", "1024")),
    ("--objective", ("throughput", "context", "balance")),
    ("--reserve-mib", ("0", "512", "2048")),
    ("--n-gpu-layers", ("0", "3", "all")),
)
SWITCHES = ("--no-kv-unified", "--no-pipeline", "--swa-full", "--no-mmap")


def rig_of(pick: random.Random) -> Machine:
    """Up to four cards or workers, some of them alike, some of unknown speed."""
    devices: list[Device] = []
    for index in range(pick.choice((0, 1, 1, 2, 2, 3, 3, 4))):
        if devices and pick.random() < 0.3:
            devices.append(dataclasses.replace(devices[-1], id=f"GPU{index}", name=f"card {index}"))
            continue
        size = pick.choice((6, 8, 12, 16, 24, 48, 80)) * GIB
        device = card(index, size - pick.randrange(GIB))
        if pick.random() < 0.15:
            device = dataclasses.replace(
                card(index, size, DeviceKind.RPC), id=f"RPC{index}", endpoint=f"10.0.0.{index}:50052"
            )
        known = speed(pick.choice((200, 450, 900, 1800)))
        devices.append(dataclasses.replace(device, speed=known if pick.random() < 0.8 else None))
    rig = machine([], host_bytes=pick.choice((8, 16, 64, 256)) * GIB)
    return dataclasses.replace(rig, devices=tuple(devices))


def flags_of(pick: random.Random) -> list[str]:
    flags = [part for name, values in OPTIONS if pick.random() < 0.3 for part in (name, pick.choice(values))]
    return flags + [name for name in SWITCHES if pick.random() < 0.1]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    return {
        name: header_profile(model(), tmp_path_factory.mktemp(name.replace("/", "-")))
        for name, model in MODELS.items()
    }


def planned(profile: ModelProfile, rig: Machine, pick: random.Random) -> tuple[list[str], Plan | DoesNotFit]:
    """Flags that the model can be asked for with, and what becomes of them."""
    while True:
        flags = flags_of(pick)
        try:
            return flags, make_plan(profile, rig, typed(*flags))
        except DoesNotFit as error:
            return flags, error
        except BadPlan:
            continue  # a KV type or context that the model cannot have


@pytest.mark.parametrize("seed", range(N_PLANS))
def test_flags_that_are_printed_can_be_typed(
    seed: int, profiles: dict[str, ModelProfile], capsys: pytest.CaptureFixture[str]
) -> None:
    pick = random.Random(seed)
    profile, rig = profiles[pick.choice(list(MODELS))], rig_of(pick)
    flags, plan = planned(profile, rig, pick)
    if isinstance(plan, DoesNotFit):
        suggestions = plan.suggestions
        assert printed_flags(str(plan))[: len(suggestions)] == [change.flags for change in suggestions]
        for change in suggestions:
            again = plan_placement(profile, rig, typed(*flags, *change.flags))
            assert again.estimate.fits
            assert (again.context.n_ctx, again.placement.cpu_layers) == (change.n_ctx, change.cpu_layers)
        return
    print_plan(plan, n_ways=pick.choice((1, 3, None)), verbose=True)
    runs = printed_flags(capsys.readouterr().out)
    own = placement_flags(plan.placement)
    if plan.devices:
        assert own in runs
        assert plan_with_prompts(profile, rig, typed(*flags, *own)).placement == plan.placement
    by_flags = {way.flags: way for way in plan.alternatives}
    for run in runs:
        if run == own:
            continue
        again = plan_with_prompts(profile, rig, typed(*flags, *run))
        if run not in by_flags:
            (price,) = [each for each in plan.context_prices if each.kv_type is not None]
            assert (again.context.n_ctx, again.placement.cpu_layers) == (price.n_ctx, price.cpu_layers)
            continue
        assert again.placement == by_flags[run].placement
        assert again.context.n_ctx == by_flags[run].context.n_ctx
        assert again.estimate.fits == by_flags[run].fits
