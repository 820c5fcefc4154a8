"""Control vectors: planned bytes, and their effect on a loaded model."""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.control_vectors import write_control_vector
from tests.zoo import loadable
from tests.zoo.loadable import write_loadable
from tools.random_model import write_llama
from vram_llm.errors import ModelFileError
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Host, Machine
from vram_llm.model.header_reader import read_header
from vram_llm.planner.export.formats import emit, from_json, to_json
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import CompanionKind, ControlVector, Plan, Workload
from vram_llm.workflows.planning import PlannedFiles

pytestmark = pytest.mark.process

WISH = Workload(n_ctx=512, reserve_bytes=0, use_tuned=False)


def _plan(model: Path, host: Host, *vectors: ControlVector, layers: tuple[int, int] | None = None) -> Plan:
    wish = dataclasses.replace(WISH, control_vectors=vectors, control_vector_layers=layers)
    files = PlannedFiles.read(str(model), wish)
    return make_plan(files.profile, Machine(devices=(), host=host), wish, compares=False)


def _logits(plan: Plan) -> npt.NDArray[np.float32]:
    model = LoadedModel(plan)
    try:
        row = model.batch.add([1, 30, 31, 32], 0, 0, n_outputs=1)
        assert model.decode() == 0
        return model.logits(row).copy()
    finally:
        model.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Four layers of 64 numbers."""
    return write_llama(tmp_path / "model.gguf")


def test_vectors_are_scaled_and_added_up(model: Path, host: Host, tmp_path: Path) -> None:
    one = write_control_vector(tmp_path / "one.gguf", {1: 0.5, 3: 0.2})
    two = write_control_vector(tmp_path / "two.gguf", {2: -0.3})
    both = write_control_vector(tmp_path / "both.gguf", {1: 0.25, 2: -0.6, 3: 0.1})
    plain = _logits(_plan(model, host))
    steered = _logits(_plan(model, host, ControlVector(str(both))))
    assert np.abs(steered - plain).max() > 0.1
    parts = ControlVector(str(one), 0.5), ControlVector(str(two), 2.0)
    assert _logits(_plan(model, host, *parts)) == pytest.approx(steered, abs=1e-4)
    assert _logits(_plan(model, host, ControlVector(str(both), 0.0))) == pytest.approx(plain, abs=1e-4)


def test_a_range_of_layers(model: Path, host: Host, tmp_path: Path) -> None:
    vector = ControlVector(str(write_control_vector(tmp_path / "v.gguf", {1: 0.5, 3: 0.2})))
    third = ControlVector(str(write_control_vector(tmp_path / "third.gguf", {3: 0.2})))
    expected = _logits(_plan(model, host, third))
    assert _logits(_plan(model, host, vector, layers=(2, 3))) == pytest.approx(expected, abs=1e-4)
    assert _logits(_plan(model, host, vector)) != pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["dense", "qwen3_moe", "gemma3", "nemotron_h"])
def test_compute_buffers_are_as_without(name: str, host: Host, tmp_path: Path) -> None:
    """llama.cpp adds in place, so that a dry run needs no vectors."""
    path = write_loadable(getattr(loadable, name)(), tmp_path / "model.gguf")
    vector = write_control_vector(tmp_path / "v.gguf", {1: 0.5}, n_embd=256)
    held = []
    for plan in (_plan(path, host), _plan(path, host, ControlVector(str(vector)))):
        model = LoadedModel(plan)
        held.append(model.memory_use())
        model.close()
    assert held[0] == held[1]
    assert plan.estimate.host.companion_bytes == (plan.model.n_layers - 1) * 256 * 4


def test_plans_keep_them_and_exports_have_the_flags(model: Path, host: Host, tmp_path: Path) -> None:
    one = write_control_vector(tmp_path / "one.gguf", {1: 0.5})
    two = write_control_vector(tmp_path / "two.gguf", {2: 0.5})
    plan = _plan(model, host, ControlVector(str(one)), ControlVector(str(two), -0.5), layers=(1, 2))
    assert from_json(to_json(plan), "a plan") == plan
    assert [each.kind for each in plan.companions] == [CompanionKind.CONTROL_VECTOR] * 2
    assert [each.uses["host"].weights_bytes for each in plan.companions] == [3 * 64 * 4, 0]
    line = " ".join(emit(plan, "llama-server").replace("\\\n", " ").split())
    assert f"--control-vector-scaled {one}:1.0 --control-vector-scaled {two}:-0.5" in line
    assert "--control-vector-layer-range 1 2" in line


@pytest.mark.parametrize(
    ("layers", "n_embd", "dtype", "why"),
    [
        ({1: 0.5}, 32, np.float32, "direction.1 has 32 numbers, and this one has 4 layers of 64"),
        ({9: 0.5}, 64, np.float32, "is for another model"),
        ({0: 0.5}, 64, np.float32, "'direction.0' is no vector of numbers called direction.N"),
        ({1: 0.5}, 64, np.float16, "'direction.1' is no vector of numbers"),
        ({}, 64, np.float32, "has no vectors"),
    ],
)  # fmt: skip
def test_another_file_is_refused(
    layers: dict[int, float], n_embd: int, dtype: type, why: str, model: Path, host: Host, tmp_path: Path
) -> None:
    path = write_control_vector(tmp_path / "v.gguf", layers, n_embd, dtype)
    with pytest.raises(ModelFileError, match=why):
        _plan(model, host, ControlVector(str(path)))


def test_a_model_is_no_control_vector(model: Path, host: Host) -> None:
    assert read_header(model).tensors
    with pytest.raises(ModelFileError, match="is no control vector"):
        _plan(model, host, ControlVector(str(model)))
