"""The plan of a person who names a model and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import zoo
from vram_llm.cli.workload_options import WORKLOAD_OPTIONS
from vram_llm.machine.datasheet_speed import with_datasheet_speeds
from vram_llm.machine.types import Host, Machine
from vram_llm.machine.what_if import parse_rigs
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.report.context_prices import other_contexts
from vram_llm.planner.search.candidate import uses_host
from vram_llm.planner.types import Plan, Workload
from vram_llm.units import GIB

pytestmark = pytest.mark.process  # computes for many seconds

RIG = "RTX 4080 Laptop + 2x RTX 3090 Ti"


def llama_70b() -> zoo.Model:
    return zoo.llama(80, 8192, 64, 8, 28672)


def of(model: zoo.Model, folder: Path, common: str) -> ModelProfile:
    return profile(read_header(zoo.write(model, folder / "model.gguf", common)))


def planned(model: ModelProfile, rig: str, wish: Workload | None = None) -> Plan:
    host = Host(name="test", cores=16, total_bytes=64 * GIB, available_bytes=60 * GIB)
    machine = with_datasheet_speeds(Machine(devices=parse_rigs([rig]).devices, host=host))
    return make_plan(model, machine, wish or Workload(), compares=False)


def q4_k_m(make: Callable[[], zoo.Model]) -> Callable[[], zoo.Model]:
    return lambda: zoo.as_q4_k_m(make())


@pytest.mark.parametrize(
    ("rig", "make", "common", "n_ctx", "n_cards", "others"),
    [
        (RIG, zoo.llama, "Q8_0", 128, 2, "8k is 1% faster"),
        (RIG, q4_k_m(zoo.qwen3_moe), "Q4_K", 40, 1, ""),
        (RIG, q4_k_m(zoo.gemma3), "Q4_K", 128, 2, ""),
        (RIG, q4_k_m(llama_70b), "Q4_K", 16, 2, "24k costs 7%, max"),
        (
            RIG,
            zoo.gpt_oss,
            "Q8_0",
            24,
            3,
            "8k is 4% faster",
        ),  # three layers' experts on the CPU, and with 8k two
        (
            "RTX 3090 Ti",
            q4_k_m(zoo.qwen3_moe),
            "Q4_K",
            40,
            1,
            "",
        ),
    ],
    ids=["llama-8b", "qwen3-30b", "gemma-27b", "llama-70b", "gpt-oss-120b", "qwen3-30b-one-card"],
)
def test_the_context_is_as_long_as_costs_next_to_nothing(
    tmp_path: Path,
    rig: str,
    make: Callable[[], zoo.Model],
    common: str,
    n_ctx: int,
    n_cards: int,
    others: str,
) -> None:
    model = of(make(), tmp_path, common)
    plan = planned(model, rig)
    assert (plan.context.n_ctx // 1024, len(plan.placement.device_order)) == (n_ctx, n_cards)
    usual = planned(model, rig, Workload(n_ctx=Workload.DEFAULT_N_CTX))
    assert plan.placement.cpu_layers == usual.placement.cpu_layers
    if plan.speed is not None and usual.speed is not None:
        assert plan.speed.tokens_per_s >= 0.95 * usual.speed.tokens_per_s
    if others:
        assert (other_contexts(plan) or "").startswith(others)
    else:
        assert other_contexts(plan) is None


def test_what_more_context_costs_is_part_of_the_plan(tmp_path: Path) -> None:
    plan = planned(of(zoo.as_q4_k_m(llama_70b()), tmp_path, "Q4_K"), RIG)
    more, most, smaller_cache = plan.context_prices
    assert (more.n_ctx, more.cpu_layers, more.is_longest) == (24 * 1024, 0, False)
    assert 0.05 < more.cost < most.cost < 0.25
    assert most.is_longest
    assert more.n_ctx < most.n_ctx < 64 * 1024
    longest = planned(of(zoo.as_q4_k_m(llama_70b()), tmp_path, "Q4_K"), RIG, Workload(largest_ctx=True))
    assert most.n_ctx <= longest.context.n_ctx < most.n_ctx + 1024
    assert smaller_cache.kv_type == "q8_0"
    assert smaller_cache.n_ctx > plan.context.n_ctx
    assert f"`--kv-type q8_0 --n-ctx {smaller_cache.n_ctx // 1024}k` runs at" in (other_contexts(plan) or "")


def test_a_plan_that_spills_says_which_context_would_not(tmp_path: Path) -> None:
    model = of(zoo.as_q4_k_m(llama_70b()), tmp_path, "Q4_K")
    plan = planned(model, RIG, Workload(n_ctx=65536))
    assert uses_host(model, plan.placement)
    plain, smaller_cache = plan.context_prices
    assert plain.cpu_layers == smaller_cache.cpu_layers == 0
    assert plain.n_ctx < smaller_cache.n_ctx == 65536
    assert not uses_host(model, planned(model, RIG, Workload(n_ctx=plain.n_ctx)).placement)
    said = other_contexts(plan) or ""
    assert f"{plain.n_ctx // 1024}k stays on the cards" in said
    assert "`--kv-type q8_0 --n-ctx 64k` stays on the cards" in said


def test_where_8k_does_not_fit_the_plan_has_less_and_says_so(tmp_path: Path) -> None:
    model = of(zoo.llama(), tmp_path, "Q8_0")
    host = Host(name="test", cores=4, total_bytes=2 * GIB, available_bytes=2 * GIB)
    machine = with_datasheet_speeds(Machine(devices=parse_rigs(["9.5GB"]).devices, host=host))
    plan = make_plan(model, machine, Workload(), compares=False)
    assert plan.context.n_ctx < Workload.DEFAULT_N_CTX
    assert plan.context.n_ctx % 1024 == 0
    assert any("8k tokens of context do not fit" in note for note in plan.notes)


def test_without_a_card_the_context_is_8k(tmp_path: Path) -> None:
    host = Host(name="test", cores=4, total_bytes=64 * GIB, available_bytes=64 * GIB)
    plan = make_plan(of(zoo.llama(), tmp_path, "Q8_0"), Machine(devices=(), host=host), Workload())
    assert plan.context.n_ctx == Workload.DEFAULT_N_CTX
    assert not plan.context_prices


def test_devices_of_unknown_speed_take_a_longer_context_too(tmp_path: Path) -> None:
    host = Host(name="test", cores=4, total_bytes=64 * GIB, available_bytes=64 * GIB)
    machine = Machine(devices=parse_rigs(["24GB"]).devices, host=host)
    plan = make_plan(of(zoo.llama(), tmp_path, "Q8_0"), machine, Workload(), compares=False)
    assert plan.context.n_ctx > 4 * Workload.DEFAULT_N_CTX
    assert plan.placement.cpu_layers == 0


@pytest.mark.parametrize(
    ("flag", "default", "why"),
    [
        ("--n-ctx", Workload().n_ctx, "loses at most 5% of the tokens per second"),
        ("--parallel", 4, "llama-server and LM Studio have the same default"),
        (
            "--slots-ram",
            Workload().serving.slots_ram_bytes,
            "a quarter of the host memory that the plan leaves, at most 8 GiB",
        ),
        ("--expect-depth", Workload().expect_depth, "default: 1024"),
    ],
)
def test_each_default_is_explained(flag: str, default: int | None, why: str) -> None:
    option = next(each for each in WORKLOAD_OPTIONS if each.flag == flag)
    of, _, name = option.fields[0].rpartition(".")
    assert getattr(Workload().serving if of else Workload(), name) == default
    assert why in option.help
