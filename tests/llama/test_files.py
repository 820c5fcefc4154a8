"""Files that a plan has to know more of than their weights: what llama.cpp's loader does with them."""

from pathlib import Path

import gguf
import pytest

from tests.conftest import PlanOnCpu
from vram_llm.errors import ModelRefused
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Host, Machine
from vram_llm.model.header_reader import read_header
from vram_llm.planner.types import Workload
from vram_llm.workflows import planning


def aligned(source: Path, path: Path, alignment: int) -> Path:
    """The same model with its weights at multiples of `alignment` bytes, the first not at one of 32."""
    for n in range(0, 32, alignment):
        _write(source, path, alignment, "x" * n)
        if read_header(path).shards[0].data_offset % 32:
            return path
    raise AssertionError("every length of the header was a multiple of 32")


def _write(source: Path, path: Path, alignment: int, description: str) -> None:
    model = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    writer.add_description(description)
    for key, field in model.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=kind)
    for tensor in model.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("alignment", [8, 16])
def test_weights_that_cannot_be_mapped_are_read(
    tiny_model: Path, tmp_path: Path, plan_on_cpu: PlanOnCpu, alignment: int
) -> None:
    """llama.cpp ends the process where it maps them."""
    path = aligned(tiny_model, tmp_path / "m.gguf", alignment)
    plan = plan_on_cpu(path)
    assert not plan.context.use_mmap
    assert any("is read into memory, not mapped" in note for note in plan.notes)
    loaded = LoadedModel(plan)
    loaded.close()


def test_an_aligned_file_is_mapped(plan_on_cpu: PlanOnCpu) -> None:
    plan = plan_on_cpu()
    assert plan.context.use_mmap
    assert not any("not mapped" in note for note in plan.notes)


@pytest.mark.process
def test_a_refusal_gives_llama_cpps_reason_and_the_files_own_name(
    tiny_model: Path, tmp_path: Path, host: Host
) -> None:
    path = tmp_path / "odd.gguf"
    key = b"llama.embedding_length"
    raw = tiny_model.read_bytes()
    path.write_bytes(raw.replace(key + b"\x04", key + b"\x05"))  # i32 in place of u32
    with pytest.raises(ModelRefused) as refused:
        planning.plan(str(path), Machine(devices=(), host=host), Workload(reserve_bytes=0))
    assert "llama.embedding_length has wrong type i32 but expected type u32" in str(refused.value)
    assert "/" not in str(refused.value)
