"""Where companions go, what they leave, and how they are told of elsewhere. Sizes are the tests' own."""

import dataclasses
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import zoo
from tests.companions import write_lora, write_mmproj
from tests.planner.cases import LAPTOP, machine, profile_of, speed, with_speeds
from tests.planner.saved import CONTEXT, local, saved_plan
from tools.random_model import write_llama
from vram_llm.errors import BadPlan, DoesNotFit, ModelFileError
from vram_llm.machine.types import Device
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile, with_adapters
from vram_llm.model.projector import read_projector
from vram_llm.planner import companion_candidates
from vram_llm.planner.companions import (
    CompanionMemory,
    UnplacedCompanion,
    companion_only_devices,
    draft_plan,
    place_companions,
)
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.export.formats import emit, from_json, to_json
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.memory.lora import AdapterWeights
from vram_llm.planner.memory_report import memory_report
from vram_llm.planner.recheck import check, check_companion
from vram_llm.planner.search.idle_devices import idle_without_companions
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import HOST, Companion, CompanionKind, Lora, Objective, Plan, Workload
from vram_llm.units import GIB, MIB

LLAMA_WISH = Workload(n_ctx=4096)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("llama"))


def candidate(n_bytes: int, name: str = "eyes.gguf") -> UnplacedCompanion:
    def measure(device: Device | None) -> CompanionMemory:
        use = MemoryUse(weights_bytes=n_bytes, compute_bytes=MIB)
        here = MemoryUse(compute_bytes=MIB)
        return (
            CompanionMemory("by hand", here, use) if device is None else CompanionMemory("by hand", use, here)
        )

    return UnplacedCompanion(
        kind=CompanionKind.MMPROJ, path=f"/m/{name}", name=name, total_bytes=n_bytes, measure=measure
    )


def test_each_goes_where_most_is_left() -> None:
    rig = machine([8 * GIB, 12 * GIB])
    sizes = {"a": 5 * GIB, "b": 3 * GIB, "c": 40 * GIB}
    settled, left = place_companions(rig, [candidate(size, name) for name, size in sizes.items()], GIB)
    assert {each.name: each.device for each in settled} == {"c": HOST, "a": "GPU1", "b": "GPU0"}
    assert [device.companion_bytes for device in left.devices] == [3 * GIB + MIB, 5 * GIB + MIB]
    assert left.host.companion_bytes == 40 * GIB + 3 * MIB
    assert [device.free_bytes for device in left.devices] == [8 * GIB, 12 * GIB]


def test_only_allowed_devices_are_considered() -> None:
    settled, _ = place_companions(machine([8 * GIB, 12 * GIB]), [candidate(GIB)], 0, {"GPU0"})
    assert settled[0].device == "GPU0"
    settled, _ = place_companions(machine([8 * GIB, 12 * GIB]), [candidate(GIB)], 0, set())
    assert settled[0].device == HOST


@pytest.mark.parametrize(
    ("idle", "gib", "kind", "home"),
    [
        ((), 2, CompanionKind.DRAFT, "GPU1"),  # where most is left
        (("GPU0",), 2, CompanionKind.DRAFT, "GPU0"),
        (("GPU0", "GPU2"), 2, CompanionKind.DRAFT, "GPU2"),  # the faster of the two
        (("GPU0", "GPU2"), 5, CompanionKind.DRAFT, "GPU0"),  # which has no room for this one
        (("GPU0", "GPU2"), 9, CompanionKind.DRAFT, "GPU1"),
        (("GPU0", "GPU2"), 40, CompanionKind.DRAFT, HOST),
        (("GPU0", "GPU2"), 2, CompanionKind.MMPROJ, "GPU1"),
    ],
)
def test_a_draft_model_goes_where_the_model_does_not(
    idle: tuple[str, ...], gib: int, kind: CompanionKind, home: str
) -> None:
    rig = with_speeds(machine([8 * GIB, 12 * GIB, 6 * GIB]), speed(300), speed(900), speed(600))
    one = dataclasses.replace(candidate(gib * GIB), kind=kind)
    (settled,), _ = place_companions(rig, [one], GIB, idle=idle)
    assert settled.device == home


@pytest.mark.parametrize(
    ("wish", "home"), [("gpu0", "GPU0"), ("GPU1", "GPU1"), ("host", HOST), ("CPU", HOST), (None, "GPU1")]
)
def test_a_wish_goes_before_the_planners_choice(wish: str | None, home: str) -> None:
    one = dataclasses.replace(candidate(2 * GIB), wished_device=wish)
    (settled,), _ = place_companions(machine([8 * GIB, 12 * GIB]), [one], GIB, {"GPU1"})
    assert settled.device == home


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [("GPU7", "is to be on GPU7, and the devices are GPU0, host"), ("GPU0", "on GPU0, which is .* short")],
)
def test_a_wish_that_cannot_be_is_a_sentence(wish: str, sentence: str) -> None:
    one = dataclasses.replace(candidate(8 * GIB), wished_device=wish)
    with pytest.raises(BadPlan, match=sentence):
        place_companions(machine([8 * GIB]), [one], GIB)


@pytest.mark.parametrize(
    ("speeds", "split", "idle"),
    [
        ((900, 300), None, {"GPU1"}),
        ((300, 900), None, {"GPU0"}),
        ((900, 300), (0.0, 1.0), {"GPU0"}),  # it gets no layers, and may have a draft model
        ((None, None), None, set()),  # memory decides: both are used
    ],
)
def test_which_devices_the_model_leaves_alone(
    llama: ModelProfile, speeds: tuple[int | None, ...], split: tuple[float, ...] | None, idle: set[str]
) -> None:
    rig = with_speeds(machine([24 * GIB] * 2), *(None if each is None else speed(each) for each in speeds))
    wish = dataclasses.replace(LLAMA_WISH, tensor_split=None if split is None else TensorSplit(split))
    assert idle_without_companions(llama, rig, wish) == idle


def test_the_plan_says_where_the_draft_model_is(llama: ModelProfile) -> None:
    rig = with_speeds(machine([24 * GIB] * 2), speed(900), speed(300))
    one = dataclasses.replace(candidate(GIB, "small.gguf"), kind=CompanionKind.DRAFT)
    companions, left = place_companions(rig, [one], GIB, idle=idle_without_companions(llama, rig, LLAMA_WISH))
    plan = make_plan(llama, left, LLAMA_WISH, companions=companions)
    assert (plan.placement.device_order, plan.used) == (("GPU0",), ("GPU0", "GPU1"))
    assert re.search(r"GPU1  card 1 +draft", str(plan))
    (row,), n_bytes = companion_only_devices(plan), GIB + MIB
    assert (row.id, row.companion_bytes, row.weights_bytes) == ("GPU1", n_bytes, 0)
    assert row.total_bytes == n_bytes + row.overhead_bytes < row.budget_bytes == 23 * GIB
    assert [room.id for room in check(plan, rig, GIB)] == ["GPU0", "GPU1", HOST]
    full = machine([24 * GIB, GIB + row.total_bytes - 1])
    with pytest.raises(DoesNotFit, match=r"card 1 \(GPU1\) is 1 B short"):
        check(plan, full, GIB)
    flags = emit(plan, "llama-server")
    assert "--device CUDA0 " in flags
    assert "--spec-draft-device CUDA1 " in flags
    held = {"GPU1": MemoryUse(weights_bytes=GIB, compute_bytes=MIB), HOST: MemoryUse(compute_bytes=MIB)}
    rows = {each.id: each for each in memory_report(plan, {}, draft=held).devices}
    drafts = {
        name: [kind.held_bytes for kind in row.kinds if kind.kind == "draft"] for name, row in rows.items()
    }
    assert drafts == {"GPU0": [], "GPU1": [n_bytes], HOST: [MIB]}
    assert rows["GPU1"].held_bytes == row.total_bytes


@pytest.mark.parametrize("gib", [1, 3, 5])
def test_the_model_is_planned_around_it(llama: ModelProfile, gib: int) -> None:
    rig = machine([8 * GIB, 8 * GIB])
    companions, left = place_companions(rig, [candidate(gib * GIB)], GIB)
    evenly = dataclasses.replace(LLAMA_WISH, objective=Objective.BALANCE)
    plan = make_plan(llama, left, evenly, companions=companions)
    without = make_plan(llama, rig, evenly)
    assert plan.companions == companions
    home = companions[0].device
    for use in plan.estimate.devices:
        taken = companions[0].uses[use.id].total_bytes if use.id == home else 0
        parts = use.weights_bytes + use.context_bytes + use.compute_bytes + use.overhead_bytes
        assert use.companion_bytes == taken
        assert use.total_bytes == parts + taken <= use.budget_bytes
    assert plan.estimate.host.companion_bytes == MIB
    layers = dict(zip(plan.placement.device_order, plan.placement.layers_per_device, strict=True))
    before = dict(zip(without.placement.device_order, without.placement.layers_per_device, strict=True))
    assert layers[home or ""] < before[home or ""]
    assert f"without {home}" not in {other.name for other in plan.alternatives}


def test_a_refusal_names_it(llama: ModelProfile) -> None:
    companions, left = place_companions(machine([6 * GIB], host_bytes=2 * GIB), [candidate(4 * GIB)], GIB)
    with pytest.raises(DoesNotFit, match=r"with eyes.gguf \(4.00 GiB on GPU0\): "):
        make_plan(llama, left, LLAMA_WISH, companions=companions)


def test_what_no_device_takes_is_noted(llama: ModelProfile) -> None:
    companions, left = place_companions(machine([LAPTOP]), [candidate(20 * GIB)], GIB)
    notes = make_plan(llama, left, LLAMA_WISH, companions=companions).notes
    assert "eyes.gguf stays on the CPU: no device has room for all of it" in notes


# -- adapters ------------------------------------------------------------------------------------


@pytest.fixture
def adapted(tmp_path: Path) -> ModelProfile:
    """Four layers with an adapter of some of their matrices, of the embeddings and of the output."""
    model = write_llama(tmp_path / "model.gguf")
    changed = ("attn_q", "ffn_up", "token_embd", "output.weight")  # attn_output among them
    lora = write_lora(tmp_path / "lora.gguf", model, named=changed)
    return with_adapters(profile(read_header(model)), [read_header(lora)])


def test_an_adapters_tensors_are_with_those_they_change(adapted: ModelProfile) -> None:
    weights = AdapterWeights(adapted.adapters)
    a_layer = 4 * 8 * (64 + 64 + 64 + 64 + 64 + 128)  # rank 8, f32; ffn_up has 128 rows
    an_end = 4 * 8 * (64 + 320)
    assert weights.device_bytes(128, 0, 1, 3, has_output=False) == 2 * a_layer
    assert weights.device_bytes(128, 0, 0, 4, has_output=True) == 4 * a_layer + an_end
    assert weights.host_bytes(32, 0, has_output=False) == an_end  # the embedding's
    assert weights.host_bytes(32, 4, has_output=True) == 4 * a_layer + 2 * an_end


def test_a_plan_counts_adapters(adapted: ModelProfile) -> None:
    split = TensorSplit((2, 3))
    wish = Workload(n_ctx=512, reserve_bytes=0, loras=(Lora("lora.gguf", 0.5),), tensor_split=split)
    plan = make_plan(adapted, machine([GIB, GIB]), wish)
    (companion,) = plan.companions
    assert (companion.kind, companion.scale, companion.device) == (CompanionKind.LORA, 0.5, None)
    counted = {use.id: use.companion_bytes for use in plan.estimate.devices}
    counted[HOST] = plan.estimate.host.companion_bytes
    assert counted == {name: use.total_bytes for name, use in companion.uses.items()}
    assert all(counted.values())
    assert sum(use.total_bytes for use in companion.uses.values()) == adapted.adapters[0].total_bytes
    plain = make_plan(dataclasses.replace(adapted, adapters=()), machine([GIB, GIB]), LLAMA_WISH)
    assert plain.companions == ()


def test_files_that_are_no_adapters_of_the_model(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model.gguf")
    other = write_llama(tmp_path / "deci.gguf", n_ff=(64, 128))
    deeper = write_llama(tmp_path / "deeper.gguf", n_ff=(128,) * 6)
    base = profile(read_header(model))
    for path, said in (
        (model, "model.gguf is a model: give it as MODEL; --lora takes"),
        (write_lora(tmp_path / "a.gguf", other), "adapts models of architecture 'deci', not 'llama'"),
        (write_lora(tmp_path / "b.gguf", deeper), "'blk.4.attn_q.weight' that the model does not have"),
    ):
        with pytest.raises(ModelFileError, match=said):
            with_adapters(base, [read_header(path)])
    with pytest.raises(ModelFileError, match="--mmproj takes the model's projector"):
        read_projector(read_header(model))


# -- without llama.cpp ---------------------------------------------------------------------------


def test_without_a_dry_run_a_projectors_compute_is_an_estimate(tmp_path: Path) -> None:
    found = read_projector(read_header(write_mmproj(tmp_path / "eyes.gguf", image=224)))
    rig = machine([GIB])
    one = companion_candidates.projector(found, rig.host, None).measure(rig.devices[0])
    assert (one.method, one.host) == ("analytic", MemoryUse())
    assert found.total_bytes <= one.device.weights_bytes < 1.01 * found.total_bytes + 128 * len(found.tensors)
    assert one.device.compute_bytes > 4 * 256 * 96 * 4
    alone = companion_candidates.projector(found, rig.host, None).measure(None)
    assert (alone.device, alone.host.compute_bytes) == (MemoryUse(), one.device.compute_bytes)


def test_a_draft_models_context_is_as_long(llama: ModelProfile) -> None:
    context = dataclasses.replace(CONTEXT, n_outputs_max=32)
    rig = machine([24 * GIB])
    found = companion_candidates.draft(llama, "/m/draft.gguf", context, rig, None)
    assert found.context == dataclasses.replace(CONTEXT, kv_type_k="f16", n_outputs_max=8)
    measured = found.measure(rig.devices[0])
    assert measured.device.context_bytes == llama.kv_bytes_per_token * CONTEXT.n_ctx


@pytest.mark.parametrize(("gib", "home"), [(24, "GPU0"), (1, HOST)])
def test_a_draft_model_is_loaded_whole_on_its_device(llama: ModelProfile, gib: int, home: str) -> None:
    rig = machine([gib * GIB])
    (settled,), _ = place_companions(
        rig, [companion_candidates.draft(llama, "/m/draft.gguf", CONTEXT, rig, None)], 0
    )
    assert settled.device == home
    big = dataclasses.replace(saved_plan([local(0)], [80]), devices=(), companions=(settled,))
    alone = draft_plan(big)
    assert alone is not None
    assert (alone.model.path, alone.context, alone.companions) == ("/m/draft.gguf", settled.context, ())
    n_layers = llama.n_layers + 1 if home == "GPU0" else 0
    assert (alone.placement.n_gpu_layers, alone.placement.output_device) == (n_layers, home)
    assert draft_plan(dataclasses.replace(big, companions=())) is None
    old = dataclasses.replace(settled, n_layers=None)
    with pytest.raises(BadPlan, match="plan again"):
        draft_plan(dataclasses.replace(big, companions=(old,)))


def test_the_largest_context_needs_no_draft(llama: ModelProfile) -> None:
    with pytest.raises(BadPlan, match="with --draft, give --n-ctx a number"):
        make_plan(llama, machine([24 * GIB]), Workload(largest_ctx=True, draft="draft.gguf"))


# -- elsewhere and later -------------------------------------------------------------------------


def companion(kind: CompanionKind, name: str, device: str | None, **other: float) -> Companion:
    return Companion(
        kind=kind, path=f"/srv/models/{name}", name=name, total_bytes=9, device=device, uses={}, method="",
        scale=other.get("scale", 1.0),
    )  # fmt: skip


BESIDE = (
    companion(CompanionKind.LORA, "one.gguf", None),
    companion(CompanionKind.LORA, "two.gguf", None, scale=0.25),
    companion(CompanionKind.MMPROJ, "eyes.gguf", "GPU1"),
    companion(CompanionKind.DRAFT, "small.gguf", HOST),
)
FLAGS = (
    "--lora /srv/models/one.gguf --lora-scaled /srv/models/two.gguf:0.25 "
    "--mmproj /srv/models/eyes.gguf --mmproj-device CUDA1 "
    "--model-draft /srv/models/small.gguf --spec-draft-device none --spec-draft-ngl 0 "
    "--spec-type draft-simple --spec-draft-n-max 3"
)


@pytest.fixture
def plan() -> Plan:
    return dataclasses.replace(saved_plan([local(0), local(1)], [20, 60]), companions=BESIDE)


def test_llama_server_is_told_of_all(plan: Plan) -> None:
    command = shlex.join(shlex.split(emit(plan, "llama-server").replace("\\\n", " "), comments=True))
    assert FLAGS in command
    assert "export LLAMA_ARG_MMPROJ=/srv/models/eyes.gguf" in emit(plan, "env")
    compose = yaml.safe_load(emit(plan, "compose"))["services"]["llama-server"]["command"]
    assert compose[compose.index("--mmproj") + 1] == "/models/eyes.gguf"


@pytest.mark.parametrize(
    ("form", "change", "said"),
    [
        ("llama-cpp-python", lambda each: each, "cannot load eyes.gguf with the model"),
        ("compose", lambda each: dataclasses.replace(each, path=f"/else/{each.name}"), "move one.gguf there"),
        ("llama-server", lambda each: dataclasses.replace(each, path=f"hf:o/r/{each.name}"), "fetch it"),
    ],
)
def test_what_a_format_cannot_say(
    plan: Plan, form: str, change: Callable[[Companion], Companion], said: str
) -> None:
    with pytest.raises(BadPlan, match=said):
        emit(dataclasses.replace(plan, companions=tuple(map(change, plan.companions))), form)


def test_a_saved_plan_keeps_them_and_older_plans_are_read(plan: Plan) -> None:
    assert from_json(to_json(plan), "it").companions == BESIDE
    old = json.loads(to_json(plan))
    del old["companions"]
    for name in ("n_outputs_max", "flash_attn", "swa_full", "kv_unified"):
        del old["context"][name]
    for each in (*old["devices"], *old["estimate"]["devices"], old["estimate"]["host"]):
        del each["companion_bytes"]
    assert from_json(json.dumps(old).encode(), "it") == dataclasses.replace(plan, companions=())


def test_a_file_that_changed() -> None:
    check_companion(BESIDE[0], 9)
    with pytest.raises(BadPlan, match=r"one\.gguf has changed since the plan was made: 10 bytes"):
        check_companion(BESIDE[0], 10)
