"""Alternatives to a plan, and plans by an exact meter."""

import dataclasses
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import DESKTOP, LAPTOP, machine, profile_of
from vram_llm.errors import EngineDied, ModelRefused
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.make_plan import choose_candidate, make_plan
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.search.candidate import uses_host
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import Context, FlashAttention, Meter, Placement, Plan, Workload
from vram_llm.planner.ways import ranked_ways
from vram_llm.units import GIB, MIB

pytestmark = pytest.mark.process  # computes for many seconds

RIG = machine([LAPTOP, DESKTOP, DESKTOP])


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.nemotron_49b(), tmp_path_factory.mktemp("49b"))


@pytest.fixture(scope="module")
def plan(nemotron: ModelProfile) -> Plan:
    return make_plan(nemotron, RIG, Workload(n_ctx=16384))


def total_bytes_on_devices(estimate: Estimate) -> int:
    return sum(use.total_bytes for use in estimate.devices)


def test_the_alternatives_of_a_plan(nemotron: ModelProfile, plan: Plan) -> None:
    by_name = {other.name: other for other in plan.alternatives}
    assert list(by_name) == [
        "KV cache as q8_0", "no pipeline copies", "micro-batches of 256", "8k more context", "without GPU0",
        "throughput as the objective", "flash attention off", "separate KV caches", "logits of all tokens",
    ]  # fmt: skip
    for name in ("KV cache as q8_0", "no pipeline copies", "micro-batches of 256"):
        assert total_bytes_on_devices(by_name[name].estimate) < total_bytes_on_devices(plan.estimate)
    assert by_name["KV cache as q8_0"].context.kv_type_k == "q8_0"
    assert by_name["8k more context"].context.n_ctx == 24576
    assert "GPU0" not in by_name["without GPU0"].placement.device_order
    assert uses_host(nemotron, by_name["without GPU0"].placement)


def test_a_change_that_a_plan_already_has_is_no_alternative(nemotron: ModelProfile) -> None:
    workload = Workload(n_ctx=2048, kv_type_k="q8_0", kv_type_v="q8_0", pipeline_copies=False, n_ubatch=64)
    names = [other.name for other in make_plan(nemotron, RIG, workload).alternatives]
    assert names == [
        "8k more context", "without GPU0", "throughput as the objective", "separate KV caches",
        "logits of all tokens",
    ]  # fmt: skip


def test_one_step_more_than_the_largest_context_does_not_fit(nemotron: ModelProfile) -> None:
    plan = make_plan(nemotron, RIG, Workload(largest_ctx=True), compares=False)
    more = plan.context.n_ctx + 256
    kept = Workload(n_gpu_layers=plan.placement.n_gpu_layers, overrides=())
    assert plan_placement(nemotron, RIG, dataclasses.replace(kept, n_ctx=plan.context.n_ctx)).estimate.fits
    assert not plan_placement(nemotron, RIG, dataclasses.replace(kept, n_ctx=more)).estimate.fits
    assert any(f"{more:,} tokens would be too many without" in note for note in plan.notes)
    assert plan.placement.cpu_layers == 0


def test_the_largest_context_is_at_most_the_trained_one(nemotron: ModelProfile) -> None:
    plan = make_plan(nemotron, machine([80 * GIB] * 4), Workload(largest_ctx=True), compares=False)
    assert plan.context.n_ctx == 131072


def test_alternatives_are_compared_by_one_meter(nemotron: ModelProfile) -> None:
    free = [LAPTOP, DESKTOP, DESKTOP]
    workload = Workload(n_ctx=16384, tensor_split=TensorSplit((13.0, 24.0, 44.0)))
    plan = make_plan(nemotron, machine(free), workload, ExactMeter(nemotron, free, share=0.6))
    by_name = {other.name: other for other in plan.alternatives}
    assert all(change < 0 for change in by_name["KV cache as q8_0"].change_bytes.values())
    assert by_name["KV cache as q8_0"].placement.tensor_split == plan.placement.tensor_split
    assert all(change > 0 for change in by_name["8k more context"].change_bytes.values())


def test_a_placement_that_fits_by_the_exact_meter_alone_is_found(
    nemotron: ModelProfile,
) -> None:
    free, workload = [LAPTOP, DESKTOP], Workload(n_ctx=2048)
    roomy = plan_placement(nemotron, machine(free), workload, ExactMeter(nemotron, free, share=0.6))
    tight = roomy.estimate.host.total_bytes + 1100 * MIB
    rig = machine(free, host_bytes=tight)
    assert not plan_placement(nemotron, rig, workload).estimate.fits
    exact = ExactMeter(nemotron, free, share=0.6)
    exact.rig = rig
    assert plan_placement(nemotron, rig, workload, exact).estimate.fits


def test_an_underestimate_of_the_analytic_meter_is_corrected(nemotron: ModelProfile) -> None:
    free = [DESKTOP, DESKTOP]
    found = plan_placement(
        nemotron, machine(free), Workload(n_ctx=2048), ExactMeter(nemotron, free, 1.0, 12 * GIB)
    )
    assert found.estimate.fits
    assert found.estimate.host.weights_bytes > 12 * GIB


def test_the_largest_context_with_weights_on_the_host_is_at_least_the_default(nemotron: ModelProfile) -> None:
    one_card = machine([DESKTOP])
    chosen, *_ = choose_candidate(nemotron, one_card, Workload(largest_ctx=True), None)
    assert chosen.context.n_ctx >= Workload.DEFAULT_N_CTX


def test_the_exact_meter_measures_the_first_alternatives(nemotron: ModelProfile) -> None:
    free = [LAPTOP, DESKTOP, DESKTOP]
    plan = make_plan(nemotron, machine(free), Workload(n_ctx=2048), ExactMeter(nemotron, free, share=0.6))
    methods = [other.estimate.method for other in plan.alternatives]
    n_exact = methods.count("exact")
    assert 0 < n_exact < len(methods)
    assert methods == ["exact"] * n_exact + ["analytic"] * (len(methods) - n_exact)
    bound = plan_placement(nemotron, machine(free), Workload(n_ctx=2048)).estimate
    now = {"exact": plan.estimate, "analytic": bound}
    for other in plan.alternatives:
        if other.placement == plan.placement:
            before = {use.id: use.total_bytes for use in now[other.estimate.method].devices}
            for use in other.estimate.devices:
                assert other.change_bytes[use.id] == use.total_bytes - before[use.id]


def test_the_change_of_bytes_of_alternatives(nemotron: ModelProfile) -> None:
    plan = make_plan(nemotron, RIG, Workload(n_ctx=2048))
    by_name = {other.name: other for other in plan.alternatives}
    assert sum(by_name["KV cache as q8_0"].change_bytes.values()) < 0
    rows = sum(by_name["logits of all tokens"].change_bytes.values())
    assert rows >= (512 - plan.context.n_outputs) * 128256 * 4


def test_alternatives_keep_the_context_that_the_planner_chose(nemotron: ModelProfile) -> None:
    flags = [other.flags for other in make_plan(nemotron, RIG, Workload()).alternatives]
    assert all(alternative.count("--n-ctx") == 1 for alternative in flags)
    flags = [other.flags for other in make_plan(nemotron, RIG, Workload(n_ctx=8192)).alternatives]
    assert [alternative for alternative in flags if "--n-ctx" in alternative] == [("--n-ctx", "16k")]


def test_a_plan_with_weights_on_the_host_offers_a_context_on_the_cards(nemotron: ModelProfile) -> None:
    tight = machine([LAPTOP, DESKTOP, DESKTOP - 2 * GIB])
    plan = make_plan(nemotron, tight, Workload(n_ctx=32768))
    assert uses_host(nemotron, plan.placement)
    on_cards = [other for other in plan.alternatives if other.name == "all layers on the cards"]
    assert on_cards
    assert not any(uses_host(nemotron, other.placement) for other in on_cards)
    first, *_ = ranked_ways(plan)
    assert not uses_host(nemotron, first.placement)


@pytest.mark.parametrize(
    ("name", "workload", "offered"),
    [
        ("gemma3_27b", Workload(n_ctx=16384), {"full window caches", "8 sequences", "separate KV caches"}),
        ("gemma3_27b", Workload(n_ctx=16384, swa_full=True), {"short window caches"}),
        ("gemma3_27b", Workload(kv_unified=False), {"one KV cache for all"}),
        ("gemma3_27b", Workload(flash_attn=FlashAttention.OFF), {"flash attention"}),
        ("nemotron_nano", Workload(), {"8 sequences"}),
    ],
)
def test_alternatives_depend_on_the_model(
    name: str, workload: Workload, offered: set[str], tmp_path: Path
) -> None:
    profile = profile_of(zoo.PUBLISHED[name](), tmp_path)
    names = {other.name for other in make_plan(profile, machine([80 * GIB]), workload).alternatives}
    assert offered <= names
    opposites = {"full window caches", "short window caches"}, {"separate KV caches", "one KV cache for all"}
    assert all(len(pair & names) <= 1 for pair in opposites)


def test_a_change_that_llama_cpp_refuses_is_no_alternative(nemotron: ModelProfile) -> None:
    free = [LAPTOP, DESKTOP, DESKTOP]
    exact = ExactMeter(nemotron, free, share=0.6)

    def refusing(context: Context) -> Meter:
        if context.n_ubatch < 512:
            raise ModelRefused("no")
        if not context.pipeline_copies:
            raise EngineDied("no")
        return exact(context)

    names = [o.name for o in make_plan(nemotron, machine(free), Workload(n_ctx=2048), refusing).alternatives]
    assert "KV cache as q8_0" in names
    assert not {"micro-batches of 256", "no pipeline copies"} & set(names)


class ExactMeter:
    """A meter whose compute is a share of the analytic bound, as with llama.cpp."""

    def __init__(
        self, profile: ModelProfile, free_bytes: list[int], share: float, extra_bytes: int = 0
    ) -> None:
        self.profile, self.rig = profile, machine(free_bytes)
        self.share, self.extra_bytes = share, extra_bytes
        self.n_measured = 0

    def __call__(self, context: Context) -> Meter:
        analytic = AnalyticMeter(self.profile, context, self.rig.devices, self.rig.host, 1024 * MIB)

        def measure(placement: Placement) -> Estimate:
            self.n_measured += 1
            bound = analytic(placement)
            devices = []
            for use in bound.devices:
                saved = int(use.compute_bytes * (1 - self.share)) - self.extra_bytes
                devices.append(
                    dataclasses.replace(
                        use, compute_bytes=use.compute_bytes - saved, total_bytes=use.total_bytes - saved
                    )
                )
            return Estimate(method="exact", devices=tuple(devices), host=bound.host)

        return measure


def test_the_exact_meter_puts_fewer_weights_on_the_host(nemotron: ModelProfile) -> None:
    free = [LAPTOP, DESKTOP]
    workload = Workload(n_ctx=8192, n_ubatch=2048)
    analytic_plan = plan_placement(nemotron, machine(free), workload)
    exact = ExactMeter(nemotron, free, share=0.5)
    found = plan_placement(nemotron, machine(free), workload, exact)
    assert found.estimate.method == "exact"
    assert found.estimate.fits
    assert found.estimate.host.weights_bytes < analytic_plan.estimate.host.weights_bytes
    assert exact.n_measured < 8


def test_a_placement_that_exceeds_a_device_by_the_exact_meter_is_replaced(nemotron: ModelProfile) -> None:
    free = [LAPTOP, DESKTOP]
    found = plan_placement(
        nemotron, machine(free), Workload(n_ctx=8192), ExactMeter(nemotron, free, 1.0, 900 * MIB)
    )
    assert found.estimate.fits
    assert all(use.total_bytes <= use.budget_bytes for use in found.estimate.devices)


def test_the_largest_context_by_the_exact_meter_is_larger(nemotron: ModelProfile) -> None:
    free = [LAPTOP, DESKTOP, DESKTOP]
    workload = Workload(largest_ctx=True)
    exact = ExactMeter(nemotron, free, share=0.7)
    by_analytic, by_exact = (
        choose_candidate(nemotron, machine(free), workload, meter)[0] for meter in (None, exact)
    )
    assert by_exact.context.n_ctx > by_analytic.context.n_ctx
    assert by_exact.estimate.fits
