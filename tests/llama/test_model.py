"""Loading: what a loaded model says of itself, and the sentence for each way it cannot be loaded."""

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.conftest import PlanOnCpu
from vram_llm.errors import BadPlan, ModelRefused, WorkerUnreachable
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.vocab import Vocab
from vram_llm.machine import detect as machines
from vram_llm.machine.types import DeviceKind, Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import HOST, Plan, Workload
from vram_llm.workflows import detection

pytestmark = pytest.mark.process


def test_what_a_model_says_of_itself(model: LoadedModel, tiny_model: Path) -> None:
    profile = detection.analyze(str(tiny_model))
    assert model.n_params == profile.parameters
    assert model.size_bytes == profile.total_bytes
    assert (model.n_ctx, model.n_ctx_train) == (512, 4096)
    assert (model.n_batch, model.n_ubatch, model.batch.capacity) == (512, 512, 512)


def test_metadata(plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    template = "{{ messages }} é" * 500
    path = tmp_path / "templated.gguf"
    _write(path, "llama", template=template)
    model = _loaded(_with_path(plan_on_cpu(), path))
    assert model.metadata("tokenizer.chat_template") == template
    assert model.metadata("general.architecture") == "llama"
    assert model.metadata("no.such.key") is None
    model.close()


def test_a_prompt_in_chunks_and_at_once_is_the_same(model: LoadedModel) -> None:
    prompt = [1, *range(20, 80)]
    results = []
    for chunk in (len(prompt), 7):
        model.forget(0)
        for start in range(0, len(prompt), chunk):
            model.batch.clear()
            row = model.batch.add(prompt[start : start + chunk], start, 0, n_outputs=1)
            assert model.decode() == 0
        results.append(model.logits(row).copy())
    assert results[0].shape == (320,)
    assert results[0] == pytest.approx(results[1], abs=0.05)
    assert results[0].std() > 0.5


def test_a_full_cache_has_no_room_until_a_sequence_is_forgotten(model: LoadedModel) -> None:
    for sequence in range(4):
        model.forget(sequence)
    assert _decode(model, [5] * 300, 0, 0) == 0
    assert _decode(model, [6] * 213, 0, 1) == 1
    assert _decode(model, [6] * 212, 0, 1) == 0
    assert _decode(model, [7], 212, 1) == 1
    model.forget(0)
    assert _decode(model, [7] * 300, 212, 1) == 0
    model.forget(1)


def _decode(model: LoadedModel, tokens: list[int], position: int, sequence: int) -> int:
    model.batch.clear()
    model.batch.add(tokens, position, sequence, n_outputs=1)
    return model.decode()


@pytest.mark.parametrize("use_mmap", [True, False])
def test_progress_goes_up_to_1(plan_on_cpu: PlanOnCpu, use_mmap: bool) -> None:
    seen: list[float] = []

    def progress(fraction: float) -> bool:
        seen.append(fraction)
        return True

    LoadedModel(plan_on_cpu(use_mmap=use_mmap), progress).close()
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert all(0 <= fraction <= 1 for fraction in seen)


def test_a_load_can_be_given_up(plan_on_cpu: PlanOnCpu) -> None:
    with pytest.raises(ModelRefused):
        LoadedModel(plan_on_cpu(), lambda _: False)


def test_all_on_the_processor_is_all_the_hosts(model: LoadedModel) -> None:
    estimate = model.plan.estimate
    assert (estimate.devices, set(model.memory_use())) == ((), {HOST})


# -- refusals ------------------------------------------------------------------------------------


def _write(path: Path, architecture: str, template: str = "", drop: str = "") -> None:
    """The tiny model's shape under another name, or with a tensor missing."""
    from tools.random_model import write_llama

    source = gguf.GGUFReader(write_llama(path.with_suffix(".source")))
    writer = gguf.GGUFWriter(path, architecture)
    for key, field in source.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        sub_type = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key.replace("llama.", f"{architecture}.", 1), field.contents(), kind, sub_type)
    if template:
        writer.add_chat_template(template)
    for tensor in source.tensors:
        if tensor.name != drop:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _with_path(plan: Plan, path: Path) -> Plan:
    return dataclasses.replace(plan, model=dataclasses.replace(plan.model, path=str(path)))


def _loaded(plan: Plan) -> LoadedModel:
    return LoadedModel(plan)


def _truncated(path: Path, tiny_model: Path) -> None:
    path.write_bytes(tiny_model.read_bytes()[:-5000])


def _of_no_architecture(path: Path, _: Path) -> None:
    _write(path, "nonesuch")


def _without_a_tensor(path: Path, _: Path) -> None:
    _write(path, "llama", drop="blk.2.ffn_up.weight")


def _not_gguf(path: Path, _: Path) -> None:
    path.write_text("just text\n" * 1000)


def _absent(path: Path, _: Path) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_truncated, "corrupted or incomplete|out of bounds|not within the file bounds"),
        (_of_no_architecture, "unknown model architecture: 'nonesuch'"),
        (_without_a_tensor, "tensor 'blk.2.ffn_up.weight' not found"),
        (_not_gguf, "invalid magic characters"),
        (_absent, "No such file|failed to open"),
    ],
)
def test_llama_cpp_refuses(
    plan_on_cpu: PlanOnCpu, tiny_model: Path, tmp_path: Path, spoil: Any, words: str
) -> None:
    path = tmp_path / "bad.gguf"
    spoil(path, tiny_model)
    with pytest.raises(ModelRefused, match=r"llama\.cpp will not load bad\.gguf: ") as refusal:
        LoadedModel(_with_path(plan_on_cpu(), path))
    assert refusal.match(words)
    assert "\n" not in str(refusal.value)


def test_a_context_llama_cpp_will_not_make(plan_on_cpu: PlanOnCpu) -> None:
    """It takes 256 sequences at most."""
    with pytest.raises(ModelRefused, match=r"will not make a context of 512 tokens: .*n_seq_max"):
        LoadedModel(plan_on_cpu(parallel=300))


def test_after_a_refusal_another_loads(plan_on_cpu: PlanOnCpu, absent: Path) -> None:
    with pytest.raises(ModelRefused):
        LoadedModel(_with_path(plan_on_cpu(), absent))
    model = LoadedModel(plan_on_cpu())
    assert isinstance(model.vocab, Vocab)
    model.close()


def test_a_what_if_card_is_not_here(profiles: dict[str, ModelProfile]) -> None:
    plan = make_plan(profiles["tied"], machines.what_if(["RTX 3090"]), Workload(n_ctx=256))
    with pytest.raises(BadPlan, match=r"RTX 3090.* is planned for but not in this machine"):
        LoadedModel(plan)


def _planned_for(profile: ModelProfile, machine: Machine, **changes: Any) -> Plan:
    device = dataclasses.replace(machine.devices[0], **changes)
    here = dataclasses.replace(machine, devices=(device,))
    return make_plan(profile, here, Workload(n_ctx=256, tensor_split=TensorSplit((1,)), reserve_bytes=0))


def test_a_card_llama_cpp_does_not_see(profiles: dict[str, ModelProfile], machine: Machine) -> None:
    plan = _planned_for(
        profiles["tied"],
        machine,
        kind=DeviceKind.CUDA,
        endpoint=None,
        pci_bus_id="0000:ff:00.0",
        name="RTX 1",
    )
    with pytest.raises(
        BadPlan, match=r"llama\.cpp does not list RTX 1 \(PCI 0000:ff:00\.0\) as a cuda device\..*GGML_CUDA"
    ):
        LoadedModel(plan)


def test_a_device_the_worker_has_not(profiles: dict[str, ModelProfile], machine: Machine) -> None:
    with pytest.raises(BadPlan, match="has 1 devices and the plan wants its number 3"):
        LoadedModel(_planned_for(profiles["tied"], machine, endpoint_index=3))


def test_a_worker_that_is_gone(profiles: dict[str, ModelProfile], machine: Machine) -> None:
    with pytest.raises(WorkerUnreachable, match=r"no worker answers at 127\.0\.0\.1:1 "):
        LoadedModel(_planned_for(profiles["tied"], machine, endpoint="127.0.0.1:1"))


def test_a_placement_on_a_device_the_plan_does_not_have(
    profiles: dict[str, ModelProfile], machine: Machine
) -> None:
    plan = _planned_for(profiles["tied"], machine)
    edited = dataclasses.replace(plan.placement, device_order=("GPU7",))
    with pytest.raises(BadPlan, match="places layers on GPU7, which is not one of its devices"):
        LoadedModel(dataclasses.replace(plan, placement=edited))
