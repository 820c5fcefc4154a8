"""Whether prompts copy the host's weights to a card, and the size of their micro-batches."""

import dataclasses
import itertools

import pytest

from tests import zoo
from tests.cli.typed import typed
from tests.planner.cases import link, profile_of
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import DeviceKind, Host, Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.report.reasons import why
from vram_llm.planner.search.candidate import expected_speed
from vram_llm.planner.search.prompt_choice import SIZES, choose_prompts, plan_with_prompts
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.types import Context, Meter, Placement, SpeedEstimate, Workload
from vram_llm.units import GIB

pytestmark = pytest.mark.process  # computes for many seconds

HOST = Host(name="test", cores=16, total_bytes=64 * GIB, available_bytes=64 * GIB)


@pytest.fixture(scope="module")
def gpt_oss(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.gpt_oss(), tmp_path_factory.mktemp("120b"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.qwen3_moe(layers=12), tmp_path_factory.mktemp("qwen"))


def rig(*cards: str) -> Machine:
    return what_if(list(cards), HOST)


def of_kind(machine: Machine, kind: DeviceKind) -> Machine:
    devices = (dataclasses.replace(device, kind=kind) for device in machine.devices)
    return dataclasses.replace(machine, devices=tuple(devices))


def seconds(speed: SpeedEstimate) -> float:
    assert speed.prompt_s is not None
    return speed.prompt_s + 512 * speed.step_s


def chosen(model: ModelProfile, machine: Machine, *flags: str) -> tuple[bool, int]:
    found = plan_with_prompts(model, machine, typed("-c", "16k", *flags))
    return found.context.op_offload, found.context.n_ubatch


def test_a_prompt_of_a_large_moe_is_copied_whole(gpt_oss: ModelProfile) -> None:
    machine, wish = rig("RTX 3090"), typed("-c", "16k")
    default = plan_placement(gpt_oss, machine, wish)
    found = choose_prompts(gpt_oss, machine, wish, default)
    assert (found.context.op_offload, found.context.n_ubatch, found.context.n_batch) == (True, 2048, 2048)
    assert found.context.n_ctx == default.context.n_ctx
    assert found.estimate.fits
    before, after = (expected_speed(gpt_oss, machine, wish, each) for each in (default, found))
    assert seconds(after) < 0.98 * seconds(before)
    assert before.step_s < after.step_s < before.step_s / 0.9  # its buffers take room of experts


@pytest.mark.parametrize("depth", [512, 2048, 8192])
def test_no_other_way_makes_a_request_shorter(gpt_oss: ModelProfile, depth: int) -> None:
    machine, wish = rig("RTX 3090"), typed("-c", "16k", "--expect-depth", str(depth))
    default = plan_placement(gpt_oss, machine, wish)
    found = choose_prompts(gpt_oss, machine, wish, default)
    before, best = (expected_speed(gpt_oss, machine, wish, each) for each in (default, found))
    for copies, size in itertools.product((False, True), SIZES):
        other = plan_placement(gpt_oss, machine, dataclasses.replace(wish, op_offload=copies, n_ubatch=size))
        speed = expected_speed(gpt_oss, machine, wish, other)
        if other.estimate.fits and 0.9 * speed.step_s <= before.step_s:
            assert seconds(best) <= 1.001 * seconds(speed), (copies, size)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--no-op-offload",), (False, 512)),
        (("--no-op-offload", "-ub", "1024"), (False, 1024)),
        (("-ub", "512"), (True, 512)),
        (("--op-offload", "-ub", "256"), (True, 256)),
        (("--op-offload",), (True, 2048)),
        (("-b", "1024"), (True, 1024)),
        (("--expect-depth", "8k"), (True, 8192)),
        (("--parallel", "32"), (False, 512)),
        (("--parallel", "32", "--op-offload"), (True, 2048)),
    ],
)
def test_what_the_user_says_is_obeyed(
    gpt_oss: ModelProfile, flags: tuple[str, ...], expected: tuple[bool, int]
) -> None:
    assert chosen(gpt_oss, rig("RTX 3090"), *flags) == expected


def test_without_weights_of_layers_on_the_host_nothing_changes(qwen: ModelProfile) -> None:
    cards = rig("RTX 3090")
    for machine in (cards, dataclasses.replace(cards, devices=())):
        default = plan_placement(qwen, machine, Workload())
        assert choose_prompts(qwen, machine, Workload(), default) is default


def test_workers_take_no_copies(qwen: ModelProfile) -> None:
    machine = of_kind(rig("4GB@360GB/s"), DeviceKind.RPC)
    assert plan_placement(qwen, machine, typed("-c", "8k")).placement.shares_layers_with_host
    assert chosen(qwen, machine) == (False, 512)


def test_the_card_with_the_faster_link_comes_first(gpt_oss: ModelProfile) -> None:
    found = rig("RTX 3090", "RTX 3090")
    slow, fast = found.devices
    for devices in ((slow, fast), (fast, slow)):
        links = {slow.id: link(1), fast.id: link(25)}
        on = dataclasses.replace(
            found, devices=tuple(dataclasses.replace(each, link=links[each.id]) for each in devices)
        )
        placed = plan_with_prompts(gpt_oss, on, typed("-c", "8k"))
        assert placed.context.op_offload
        assert placed.placement.device_order[0] == fast.id
        assert placed.estimate.fits


def test_an_exact_meter_has_the_last_word(gpt_oss: ModelProfile) -> None:
    """It finds no room for copies: the default remains."""
    machine, wish = rig("RTX 3090"), typed("-c", "16k")
    asked: list[Context] = []

    def exact(context: Context) -> Meter:
        asked.append(context)
        meter = AnalyticMeter(gpt_oss, context, machine.devices, machine.host, wish.reserve_bytes)

        def measure(placement: Placement) -> object:
            estimate = meter(placement)
            if not context.op_offload:
                return estimate
            uses = (dataclasses.replace(use, budget_bytes=GIB // 4) for use in estimate.devices)
            return dataclasses.replace(estimate, devices=tuple(uses))

        return measure  # type: ignore[return-value]  # an Estimate in both cases

    found = plan_with_prompts(gpt_oss, machine, wish, exact)
    assert any(context.op_offload for context in asked)
    assert found == plan_placement(gpt_oss, machine, wish, exact)


def test_a_plan_says_how_prompts_run(gpt_oss: ModelProfile) -> None:
    plan = make_plan(gpt_oss, rig("RTX 3090"), typed("-c", "16k"))
    assert "Prompts copy the CPU's weights to GPU0, for 2k tokens at a time." in " ".join(str(plan).split())
    by_name = {other.name: other for other in plan.alternatives}
    assert not by_name["prompts without copies"].context.op_offload
    assert by_name["prompts without copies"].flags == ("--no-op-offload",)
    off = make_plan(gpt_oss, rig("RTX 3090"), typed("-c", "16k", "--no-op-offload"))
    assert "Prompts use the CPU's weights there, 512 tokens at a time." in " ".join(str(off).split())
    copies = next(other for other in off.alternatives if other.name == "prompts with copies")
    assert copies.placement == plan.placement
    (prompts,) = (sentence for sentence in why(off) if sentence.startswith("Prompts: "))
    assert " with copies, with micro-batches of 2,048" in prompts
