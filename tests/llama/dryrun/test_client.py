"""Dry runs, compared with loads on RPC workers, llama.cpp's own measure and the analytic meter; crashes."""

import dataclasses
import os
import random
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.workers import running_workers
from tests.zoo import PUBLISHED, SMALL, nemotron_49b, write
from tests.zoo.loadable import LOADABLE, write_loadable
from vram_llm.errors import EngineDied, ModelRefused, NotBuilt
from vram_llm.llama import rpc
from vram_llm.llama.dryrun import selftest, worker
from vram_llm.llama.dryrun.client import METHOD, DryRun
from vram_llm.llama.dryrun.wire import DryRunMode, DryRunRequest
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Device, DeviceKind, Host, Machine, Source
from vram_llm.model.header import Header
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.llama_split import placement_from_counts, placement_of
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.search.search import choose_placement
from vram_llm.planner.types import (
    HOST,
    PLAN_VERSION,
    Context,
    FlashAttention,
    Placement,
    Plan,
    PlannedDevice,
    PlannedModel,
    Workload,
)
from vram_llm.units import GIB

pytestmark = pytest.mark.process

N_PLACEMENTS = 12  # of each model
CARDS = tuple(
    Device(
        id=f"GPU{i}", name=f"{gib} GiB", kind=DeviceKind.CUDA, total_bytes=gib * GIB, free_bytes=gib * GIB,
        memory_source=Source.GIVEN, row_padding=512, what_if=True,
    )
    for i, gib in enumerate((24, 24, 12))
)  # fmt: skip


def a_context(**fields: object) -> Context:
    usual = Context(
        n_ctx=8192, parallel=8, kv_type_k="f16", kv_type_v="f16", n_batch=2048, n_ubatch=512, n_threads=1,
        use_mmap=False, pipeline_copies=True,
    )  # fmt: skip
    return dataclasses.replace(usual, **fields)  # type: ignore[arg-type]  # fields by name


@pytest.fixture(scope="module")
def dry() -> Iterator[DryRun]:
    with DryRun() as dry_run:
        dry_run.check()
        yield dry_run


@pytest.fixture(scope="module")
def dry_run_workers() -> Iterator[tuple[str, ...]]:
    """Workers for the dry run, while the test loads models on `workers`."""
    with running_workers(3) as endpoints:
        yield endpoints


def random_placement(pick: random.Random, ids: Sequence[str], n_layers: int) -> Placement:
    """Some of the devices in some order with random numbers of layers; in two of five cases also the host."""
    n_host = pick.choice((0, 0, 0, pick.randint(0, n_layers - 1), pick.randint(0, n_layers)))
    n_items = n_layers + 1 - n_host
    order = pick.sample(list(ids), min(pick.randint(1, 3), n_items, len(ids)))
    cuts = sorted(pick.sample(range(1, n_items), len(order) - 1))
    counts = [b - a for a, b in zip([0, *cuts], [*cuts, n_items], strict=True)]
    return placement_of(order, [-1] * n_host + [i for i, count in enumerate(counts) for _ in range(count)])


def random_context(pick: random.Random, of: ModelProfile) -> Context:
    n_ctx, parallel = pick.choice((256, 512, 2048)), pick.choice((1, 2, 8))
    kv_unified, flash_attn = pick.random() < 0.5, pick.choice(list(FlashAttention))
    heads = (of.head_k, of.head_v, of.window_head_k, of.window_head_v)
    can_quantize = flash_attn is not FlashAttention.OFF and not any(head % 32 for head in heads)
    kv_type = pick.choice(("f16", "f16", "q8_0")) if can_quantize else "f16"
    return a_context(
        n_ctx=n_ctx if kv_unified else max(n_ctx // parallel, 256) * parallel,
        parallel=parallel, n_ubatch=min(n_ctx, pick.choice((16, 64, 512))), n_batch=min(n_ctx, 512),
        pipeline_copies=pick.random() < 0.8, kv_unified=kv_unified, swa_full=pick.random() < 0.5,
        flash_attn=flash_attn, n_outputs_max=pick.choice((parallel, parallel, 64)),
        kv_type_k=kv_type, kv_type_v=kv_type, backend_sampling=pick.random() < 0.4,
        kv_offload=pick.random() < 0.75,
    )  # fmt: skip


def nonzero_bytes(estimate: Estimate) -> dict[str, tuple[int, int, int]]:
    """Bytes of weights, context and compute by device and for the host, without devices that hold nothing."""
    uses = {d.id: (d.weights_bytes, d.context_bytes, d.compute_bytes) for d in estimate.devices}
    host = estimate.host
    uses[HOST] = (host.weights_bytes, host.context_bytes, host.compute_bytes)
    return {device_id: n_bytes for device_id, n_bytes in uses.items() if any(n_bytes)}


def loaded_bytes(path: Path, devices: Sequence[Device], context: Context, estimate: Estimate,
                 placement: Placement) -> dict[str, tuple[int, int, int]]:  # fmt: skip
    """The same bytes, as llama.cpp reports them after a load of the model."""
    plan = Plan(
        version=PLAN_VERSION,
        model=PlannedModel(
            path=str(path), name=path.stem, architecture="", quantization="", n_layers=0, total_bytes=0
        ),
        devices=tuple(
            PlannedDevice(**{name: getattr(d, name) for name in Device.__dataclass_fields__}, reserve_bytes=0)
            for d in devices
        ),
        context=context,
        placement=placement,
        estimate=estimate,
        fits=True,
        by_free_memory=None,
    )
    model = LoadedModel(plan)
    uses = model.memory_use()
    model.close()
    by_device = {name: (u.weights_bytes, u.context_bytes, u.compute_bytes) for name, u in uses.items()}
    return {device_id: n_bytes for device_id, n_bytes in by_device.items() if any(n_bytes)}


@pytest.mark.parametrize("name", LOADABLE)
def test_a_dry_run_equals_a_load_to_the_byte(
    name: str,
    dry: DryRun,
    workers: tuple[str, ...],
    dry_run_workers: tuple[str, ...],
    host: Host,
    tmp_path: Path,
) -> None:
    """On virtual devices the bytes are equal; llama.cpp's own measure of real devices is close to them."""
    path = write_loadable(LOADABLE[name](), tmp_path / f"{name}.gguf")
    header = read_header(path)
    of = profile(header)
    devices = rpc.devices(workers)
    virtual = [dataclasses.replace(d, endpoint=None, what_if=True) for d in devices]
    real = [dataclasses.replace(d, endpoint=e) for d, e in zip(devices, dry_run_workers, strict=True)]
    pick = random.Random(name)
    for _ in range(N_PLACEMENTS):
        placement = random_placement(pick, [d.id for d in devices], of.n_layers)
        context = random_context(pick, of)
        estimate = dry.meter(header, context, virtual, host, 0)(placement)
        assert nonzero_bytes(estimate) == loaded_bytes(path, devices, context, estimate, placement)
        if not context.kv_offload:
            continue  # llama.cpp's own measure takes no account of attention on the host
        measured = dry.meter(header, context, real, host, 0, mode=DryRunMode.REAL)(placement)
        assert all(
            abs(m.compute_bytes - e.compute_bytes) <= boundary_bytes(header, context)
            for m, e in zip(measured.devices, estimate.devices, strict=True)
        )


def boundary_bytes(header: Header, context: Context) -> int:
    """The difference that llama.cpp's own measure may have: 4 aligned copies of a layer's input."""
    return 4 * profile(header).n_embd * context.n_ubatch * 4 + 4 * 128


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Header]:
    """The headers of all models of the zoo, by name."""
    folder = tmp_path_factory.mktemp("zoo")
    zoo = PUBLISHED | SMALL
    return {name: read_header(write(zoo[name](), folder / f"{name}.gguf")) for name in zoo}


@pytest.mark.parametrize("name", [*PUBLISHED, *SMALL])
def test_weights_and_context_equal_the_analytic_meters(
    name: str, dry: DryRun, host: Host, headers: dict[str, Header]
) -> None:
    of = profile(header := headers[name])
    pick = random.Random(name)
    for _ in range(6):
        context = random_context(pick, of)
        exact = dry.meter(header, context, CARDS, host, 0)
        analytic = AnalyticMeter(of, context, CARDS, host, 0)
        placement = random_placement(pick, [card.id for card in CARDS], of.n_layers)
        for use, estimated in zip(exact(placement).devices, analytic(placement).devices, strict=True):
            assert estimated.weights_bytes == pytest.approx(use.weights_bytes, rel=1e-3)
            # a card pads the rows of these small models' quantised caches: some bytes for each layer
            context_bytes = pytest.approx(use.context_bytes, rel=1e-3, abs=1024 * of.n_layers)
            assert estimated.context_bytes == context_bytes


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_analytic_meters_compute_is_a_close_upper_bound(
    name: str, dry: DryRun, host: Host, headers: dict[str, Header]
) -> None:
    """With layers on each of three cards, and none on the host."""
    header, context = headers[name], a_context()
    of = profile(header)
    exact, analytic = dry.meter(header, context, CARDS, host, 0), AnalyticMeter(of, context, CARDS, host, 0)
    third = of.n_layers // 3
    for shift in (0, 1, -2):
        first, second = third + shift, third - shift
        placement = placement_from_counts(
            [card.id for card in CARDS], [first, second, of.n_layers - first - second], of.n_layers
        )
        bounds = nonzero_bytes(analytic(placement))
        for device_id, (*_, compute_bytes) in nonzero_bytes(exact(placement)).items():
            assert compute_bytes <= bounds[device_id][2] <= 1.25 * compute_bytes


CONTEXTS = (
    a_context(),
    a_context(pipeline_copies=False, n_ubatch=128, parallel=1),
    a_context(n_ctx=65536, kv_type_k="q8_0", kv_type_v="q8_0", parallel=4),
    a_context(n_ctx=512, n_ubatch=64, parallel=16, backend_sampling=True),
    a_context(n_ctx=16384, n_ubatch=2048, pipeline_copies=False),
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_a_close_upper_bound_for_random_placements(
    name: str, dry: DryRun, host: Host, headers: dict[str, Header]
) -> None:
    """On cards with few layers or the output alone, after layers on the host, in any order and context."""
    header, pick = headers[name], random.Random(name)
    of = profile(header)
    for context in CONTEXTS:
        exact = dry.meter(header, context, CARDS, host, 0)
        analytic = AnalyticMeter(of, context, CARDS, host, 0)
        for _ in range(6):
            placement = random_placement(pick, [card.id for card in CARDS], of.n_layers)
            for use, bound in zip(exact(placement).devices, analytic(placement).devices, strict=True):
                assert use.compute_bytes <= bound.compute_bytes <= 1.25 * use.compute_bytes, placement


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_a_close_upper_bound_for_the_planners_placements(
    name: str, dry: DryRun, host: Host, headers: dict[str, Header]
) -> None:
    """On cards that hold all of the model, most of it, and half of it.

    With weights elsewhere the bound is looser: the holes in ggml's buffer depend on which layers have lost
    theirs, up to three rows for each token, and a layer without them may be the one that needs most.
    """
    header, context = headers[name], a_context()
    of = profile(header)
    for share in (1.3, 0.8, 0.5):
        cards = tuple(
            dataclasses.replace(card, free_bytes=int(share * of.total_bytes * card.total_bytes / (60 * GIB)))
            for card in CARDS
        )
        meter = AnalyticMeter(of, context, cards, host, 0)
        placement = choose_placement(of, Machine(devices=cards, host=host), Workload(), meter)
        estimate, bounds = dry.meter(header, context, cards, host, 0)(placement), meter(placement)
        limit, round_trip_bytes = (1.3, meter.round_trip_bytes) if placement.overrides else (1.25, 0)
        for use, bound in zip(estimate.devices, bounds.devices, strict=True):
            allowed = limit * use.compute_bytes + round_trip_bytes
            assert use.compute_bytes <= bound.compute_bytes <= allowed, placement


def test_both_shards_of_the_49b_on_three_cards(dry: DryRun, host: Host, tmp_path: Path) -> None:
    path = write(nemotron_49b(), tmp_path / "49b.gguf", shard_bytes=40 * 10**9)
    header = read_header(path)
    path.unlink()  # the dry run needs the header alone
    placement = placement_from_counts([card.id for card in CARDS], [29, 36, 15], 80)
    estimate = dry.meter(header, a_context(n_ctx=4096), CARDS, host, GIB)(placement)
    assert estimate.method == METHOD
    assert [d.id for d in estimate.devices] == ["GPU0", "GPU1", "GPU2"]
    assert [d.budget_bytes for d in estimate.devices] == [23 * GIB, 23 * GIB, 11 * GIB]
    assert all(d.overhead_bytes > 0 for d in estimate.devices)
    weights_bytes = sum(d.weights_bytes for d in estimate.devices) + estimate.host.weights_bytes
    assert weights_bytes == pytest.approx(profile(header).total_bytes, rel=1e-4)
    assert not estimate.fits


def test_a_vocabulary_changes_no_bytes(dry: DryRun, host: Host, tiny_model: Path, tmp_path: Path) -> None:
    """The tiny model has a vocabulary; the stripped copy of its header has none."""
    header, context = read_header(tiny_model), a_context(n_ctx=512)
    placement = placement_from_counts(["GPU0", "GPU1"], [2, 2], 4)
    stripped = dry.meter(header, context, CARDS, host, 0)(placement)
    whole = worker.measure_placement(DryRunRequest(str(tiny_model), context, placement, list(CARDS[:2])))
    assert [d.compute_bytes for d in stripped.devices] == [use.compute_bytes for use in whole.devices]
    assert [d.weights_bytes for d in stripped.devices] == [use.weights_bytes for use in whole.devices]


def test_an_architecture_that_llama_cpp_does_not_know_is_refused(
    dry: DryRun, host: Host, tmp_path: Path
) -> None:
    model = dataclasses.replace(SMALL["gemma2"](), arch="gemma999")
    header = read_header(write(model, tmp_path / "model.gguf"))
    meter = dry.meter(header, a_context(), CARDS, host, 0)
    with pytest.raises(ModelRefused, match="gemma999"):
        meter(placement_from_counts(["GPU0"], [6], 6))


def test_a_virtual_device_replaces_a_device_that_is_gone(dry: DryRun, host: Host, tiny_model: Path) -> None:
    header, placement = read_header(tiny_model), placement_from_counts(["GPU0", "GPU1"], [2, 2], 4)
    cards = [dataclasses.replace(card, kind=DeviceKind.VULKAN, row_padding=0) for card in CARDS]
    gone = [dataclasses.replace(card, what_if=False, ggml_name="Vulkan99") for card in cards]
    estimate, expected = (
        dry.meter(header, a_context(), devices, host, 0)(placement) for devices in (gone, cards)
    )
    assert estimate == expected


def test_after_a_crash_of_llama_cpp_the_next_placement_is_measured(host: Host, tiny_model: Path) -> None:
    with DryRun() as dry:
        meter = dry.meter(read_header(tiny_model), a_context(n_ctx=512), CARDS, host, 0)
        bad, *goods, last = (placement_from_counts(["GPU0", "GPU1"], [n, 4 - n], 4) for n in (3, 2, 1, 4))
        for good in goods:
            dry.check()
            os.kill(child_of(dry), signal.SIGABRT)
            with pytest.raises(EngineDied):
                meter(bad)
            assert meter(good).devices
        with pytest.raises(EngineDied, match="twice"):
            meter(bad)
        assert meter(last).devices


def test_a_placement_is_measured_once(host: Host, tiny_model: Path) -> None:
    with DryRun() as dry:
        meter = dry.meter(read_header(tiny_model), a_context(n_ctx=512), CARDS, host, 0)
        placement = placement_from_counts(["GPU0", "GPU1"], [2, 2], 4)
        measured = meter(placement)
        os.kill(child_of(dry), signal.SIGKILL)
        assert meter(placement) == measured
        with pytest.raises(EngineDied):
            dry.meter(read_header(tiny_model), a_context(n_ctx=1024), CARDS, host, 0)(placement)


def test_recurrent_states_on_the_host_take_no_memory(host: Host, headers: dict[str, Header]) -> None:
    of = profile(header := headers["nemotron_nano"])
    with DryRun() as dry:
        meter = dry.meter(header, a_context(parallel=256), CARDS, host, 0)
        estimate = meter(placement_from_counts(["GPU0"], [1], of.n_layers))
        (peak_kb,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child_of(dry)}/status").read_text())
    assert 1024 * int(peak_kb) < estimate.host.context_bytes / 4


def test_a_hang_ends_after_the_timeout(host: Host, tiny_model: Path) -> None:
    with DryRun(timeout_s=0.5) as dry:
        meter = dry.meter(read_header(tiny_model), a_context(n_ctx=512), CARDS, host, 0)
        dry.check()
        os.kill(child_of(dry), signal.SIGSTOP)
        with pytest.raises(EngineDied, match="in time"):
            meter(placement_from_counts(["GPU0"], [4], 4))


def child_of(dry: DryRun) -> int:
    """The process id of the dry run's child."""
    assert dry._process is not None
    return dry._process._popen.pid


def test_the_self_test_fails_if_the_sizes_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "EXPECTED", selftest.EXPECTED[::-1])
    with pytest.raises(NotBuilt, match="known model"):
        worker.self_test()
