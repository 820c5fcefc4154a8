"""A device of unknown speed never worsens a plan."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import profile_of, speed
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Device, DeviceKind, Host, Machine, Source, Speed
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.report.idle import idle_reason
from vram_llm.planner.search.candidate import Candidate, expected_speed, uses_host
from vram_llm.planner.search.idle_devices import idle_without_companions
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.types import HOST, Objective, Workload
from vram_llm.units import GIB, MIB
from vram_llm.workflows import planning

pytestmark = pytest.mark.process  # computes for many seconds

HOST_64 = Host(name="test", cores=8, total_bytes=64 * GIB, available_bytes=62 * GIB)
MODELS = {
    "8B": zoo.llama(),  # 7.9 GiB
    "27B": zoo.gemma3(),  # 26.7 GiB
    "30B-A3B": zoo.qwen3_moe(),  # 30.2 GiB
    "49B": zoo.nemotron_49b(),  # 49.3 GiB
}
# Each rig holds some of these models easily, some barely, and some not at all.
RIGS = {
    "3090": ("RTX 3090",),
    "4080L + 2x 3090 Ti": ("RTX 4080 Laptop", "2x RTX 3090 Ti"),
    "2x 3060": ("2x RTX 3060",),
    "3060": ("RTX 3060",),
    "4060 Ti 16GB": ("RTX 4060 Ti 16GB",),
    "2x P40": ("2x Tesla P40",),
    "3090 + 3060": ("RTX 3090", "RTX 3060"),
    "8GB": ("RTX 4060",),
    "unknown": ("24GiB",),
}
WORKLOADS = {
    "latency": Workload(n_ctx=8192),
    "streams": Workload(n_ctx=8192, expect_streams=8, parallel=8),
    "throughput": Workload(n_ctx=8192, objective=Objective.THROUGHPUT),
}


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    return {name: profile_of(model, tmp_path_factory.mktemp("model")) for name, model in MODELS.items()}


def worker(number: int = 0, gib: int = 32, known: Speed | None = None) -> Device:
    return Device(
        id=f"RPC{number}",
        name=f"worker 10.0.0.{2 + number}:50052",
        kind=DeviceKind.RPC,
        total_bytes=gib * GIB,
        free_bytes=gib * GIB,
        memory_source=Source.DRIVER,
        endpoint=f"10.0.0.{2 + number}:50052",
        speed=known,
    )


def with_workers(rig: Machine, *workers: Device) -> Machine:
    return dataclasses.replace(rig, devices=(*rig.devices, *workers))


def seconds(profile: ModelProfile, rig: Machine, workload: Workload, found: Candidate) -> float:
    estimate = expected_speed(profile, rig, workload, found)
    if workload.objective is Objective.THROUGHPUT:
        assert estimate.prompt_s is not None
        return estimate.prompt_s
    if workload.expect_streams > 1:
        assert estimate.streams_step_s is not None
        return estimate.streams_step_s
    return estimate.step_s


def host_weights_bytes(found: Candidate) -> int:
    return found.estimate.host.weights_bytes


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
@pytest.mark.parametrize("cards", RIGS.values(), ids=RIGS)
def test_an_unknown_worker_makes_no_plan_slower_or_larger_on_the_host(
    profiles: dict[str, ModelProfile], cards: tuple[str, ...], workload: Workload
) -> None:
    rig = what_if(cards, HOST_64)
    slow_host = dataclasses.replace(rig, host=dataclasses.replace(rig.host, speed=speed(5)))
    number = list(RIGS.values()).index(cards) + list(WORKLOADS.values()).index(workload)
    for i, profile in enumerate(profiles.values()):
        before = (rig, slow_host)[(number + i) % 2]  # each host with each rig, model and workload
        after = with_workers(before, worker())
        without, found = (plan_placement(profile, each, workload) for each in (before, after))
        if not without.estimate.fits:
            continue
        assert found.estimate.fits
        assert host_weights_bytes(found) <= host_weights_bytes(without)
        then, now = (seconds(profile, after, workload, each) for each in (found, without))
        assert then <= now
        if not uses_host(profile, without.placement):
            assert found.placement == without.placement
            assert found.context == without.context


@pytest.fixture(scope="module")
def dry() -> Iterator[DryRun]:
    with DryRun() as dry_run:
        yield dry_run


# The model fits well, or by the exact meter alone, or not.
@pytest.mark.parametrize(
    ("free_mib", "fits_the_card"), [(24 * 1024, True), (1024 + 9260, True), (8 * 1024, False)]
)
def test_an_unknown_worker_does_not_change_a_plan_by_the_dry_run(
    profiles: dict[str, ModelProfile], tmp_path: Path, dry: DryRun, free_mib: int, fits_the_card: bool
) -> None:
    path = str(zoo.write(MODELS["8B"], tmp_path / "8b.gguf"))
    rig, workload = what_if(["RTX 3090"], HOST_64), WORKLOADS["latency"]
    devices = (dataclasses.replace(device, free_bytes=free_mib * MIB) for device in rig.devices)
    rig = dataclasses.replace(rig, devices=tuple(devices))
    without, found = (
        planning.plan(path, each, workload, dry, compares=False)
        for each in (rig, with_workers(rig, worker()))
    )
    assert found.estimate.method != "analytic"
    assert uses_host(profiles["8B"], found.placement) is not fits_the_card
    assert found.placement == without.placement
    assert found.estimate == without.estimate
    assert found.speed == without.speed


def test_with_a_full_host_the_worker_has_the_fewest_layers(
    profiles: dict[str, ModelProfile],
) -> None:
    rig = what_if(["RTX 3090"], dataclasses.replace(HOST_64, available_bytes=4 * GIB))
    assert not plan_placement(profiles["27B"], rig, WORKLOADS["latency"]).estimate.fits
    found = plan_placement(profiles["27B"], with_workers(rig, worker()), WORKLOADS["latency"])
    assert found.estimate.fits
    layers = dict(zip(found.placement.device_order, found.placement.layers_per_device, strict=True))
    assert layers["RPC0"] < layers["GPU0"]
    card = next(use for use in found.estimate.devices if use.id == "GPU0")
    largest = max(layer.bytes for layer in profiles["27B"].layers)
    assert -card.over_bytes < 2 * largest  # it is full but for what a layer needs


def test_times_decide_between_the_worker_and_the_host(profiles: dict[str, ModelProfile]) -> None:
    profile, workload = profiles["27B"], WORKLOADS["latency"]
    rig = what_if(["RTX 3090"], HOST_64)

    def devices(host_gb_s: float, known: Speed | None) -> tuple[str, ...]:
        host = dataclasses.replace(rig.host, speed=speed(host_gb_s))
        both = with_workers(dataclasses.replace(rig, host=host), worker(known=known))
        return plan_placement(profile, both, workload).placement.device_order

    assert "RPC0" not in devices(40, None)
    assert "RPC0" in devices(8, None)
    assert "RPC0" not in devices(40, speed(10, step_us=1000))  # a measured one that the host outdoes
    assert "RPC0" in devices(40, speed(200, step_us=1000))


def test_the_cost_of_an_idle_worker_is_that_of_the_hosts_weights_on_it(
    profiles: dict[str, ModelProfile],
) -> None:
    """The worker takes the host's weights, to within a few layers."""
    profile = profiles["27B"]
    rig = with_workers(what_if(["RTX 3090"], HOST_64), worker())
    plan = make_plan(profile, rig, WORKLOADS["latency"])
    assert plan.placement.device_order == ("GPU0",)
    assert uses_host(profile, plan.placement)
    other = next(other for other in plan.alternatives if other.name == "with RPC0")
    assert not uses_host(profile, other.placement)
    taken = next(use.weights_bytes for use in other.estimate.devices if use.id == "RPC0")
    given = plan.estimate.host.weights_bytes - other.estimate.host.weights_bytes
    assert abs(taken - given) < 3 * max(layer.bytes for layer in profile.layers)
    assert plan.speed is not None
    assert other.speed is not None
    cost = other.speed.step_s / plan.speed.step_s - 1
    reason = idle_reason(plan, plan.devices[1])
    assert reason == f"idle: using it would cost {cost:.0%} (its speed is assumed)"


def test_unknown_workers_are_idle_if_the_model_fits_the_card(
    profiles: dict[str, ModelProfile],
) -> None:
    rig = with_workers(what_if(["RTX 3090"], HOST_64), worker(0), worker(1))
    plan = make_plan(profiles["8B"], rig, WORKLOADS["latency"], compares=False)
    assert plan.placement.device_order == ("GPU0",)
    assert plan.objective is Objective.LATENCY
    assert plan.speed is not None
    assert plan.speed.basis is Source.CATALOG
    (note,) = [note for note in plan.notes if "RPC0" in note]
    assert note.startswith("the speed of worker 10.0.0.2:50052 (RPC0), which is idle, is assumed ")
    assert note.endswith("(20 GB/s over 1 Gbit/s); `vram-llm calibrate --rpc 10.0.0.2:50052` measures it")


def test_a_plan_with_an_assumed_speed_has_notes_on_it(
    profiles: dict[str, ModelProfile],
) -> None:
    rig = what_if(["RTX 3090"], dataclasses.replace(HOST_64, available_bytes=4 * GIB))
    plan = make_plan(profiles["27B"], with_workers(rig, worker()), WORKLOADS["latency"], compares=False)
    assert plan.speed is not None
    assert (plan.speed.basis, plan.speed.prompt_basis) == (Source.ASSUMED, Source.ASSUMED)
    of_worker = (
        "the speed of worker 10.0.0.2:50052 (RPC0) is assumed (20 GB/s over 1 Gbit/s); "
        "`vram-llm calibrate --rpc 10.0.0.2:50052` measures it"
    )
    of_host = "the processor's speed is assumed (30 GB/s); `vram-llm calibrate` measures it"
    assert {each.id for each in plan.speed.devices} == {"GPU0", "RPC0", HOST}
    assert [note for note in plan.notes if "assumed" in note] == [of_worker, of_host]
    spilled = make_plan(profiles["27B"], what_if(["RTX 3090"], HOST_64), WORKLOADS["latency"], compares=False)
    assert spilled.speed is not None
    assert {each.id for each in spilled.speed.devices} == {"GPU0", HOST}
    assert spilled.speed.basis is Source.ASSUMED
    assert [note for note in spilled.notes if "assumed" in note] == [of_host]


def test_a_card_of_unknown_bandwidth_is_idle_if_the_model_fits_without_it(
    profiles: dict[str, ModelProfile],
) -> None:
    rig = what_if(["24GiB", "RTX 3090"], HOST_64)
    plan = make_plan(profiles["8B"], rig, WORKLOADS["latency"], compares=False)
    assert plan.placement.device_order == ("GPU1",)
    (note,) = [note for note in plan.notes if "(GPU0)" in note]
    assert note.endswith(
        'is assumed (101 GB/s); name the card or its bandwidth in --gpu, as in "24GiB@1008GB/s"'
    )
    needed = make_plan(profiles["27B"], rig, WORKLOADS["latency"], compares=False)
    assert set(needed.placement.device_order) == {"GPU0", "GPU1"}
    assert needed.speed is not None
    assert needed.speed.basis is Source.ASSUMED


def test_workers_alone_are_used(profiles: dict[str, ModelProfile]) -> None:
    rig = with_workers(what_if([], HOST_64), worker())
    assert plan_placement(profiles["8B"], rig, WORKLOADS["latency"]).placement.device_order == ("RPC0",)


def test_memory_objectives_use_every_device(profiles: dict[str, ModelProfile]) -> None:
    rig = with_workers(what_if(["RTX 3090"], HOST_64), worker())
    workload = dataclasses.replace(WORKLOADS["latency"], objective=Objective.BALANCE)
    assert set(plan_placement(profiles["8B"], rig, workload).placement.device_order) == {"GPU0", "RPC0"}


def test_no_draft_model_goes_to_a_device_of_unknown_speed(profiles: dict[str, ModelProfile]) -> None:
    rig = with_workers(what_if(["RTX 3090", "RTX 3060"], HOST_64), worker())
    assert idle_without_companions(profiles["8B"], rig, WORKLOADS["latency"]) == {"GPU1"}
