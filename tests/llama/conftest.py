"""Models that differ in what the layer rule and the meter turn on, and a machine of three workers."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

from tests.conftest import PlanOnCpu
from tools.random_model import write_llama
from vram_llm.llama import rpc
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Host, Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.workflows import detection

Q4_0, F16 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.F16


@pytest.fixture(scope="session")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    """By name: layers of unequal width; an output that is the embedding; heads wide enough for q8_0."""
    folder = tmp_path_factory.mktemp("placement")
    widths = [96 + 32 * (i % 5) + (256 if i < 3 else 0) for i in range(11)]
    files = {
        "uneven": write_llama(folder / "uneven.gguf", n_ff=widths, rope_freqs=True),
        "tied": write_llama(folder / "tied.gguf", n_ff=(128,) * 7, tied=True, n_vocab=700, quant=Q4_0),
        "wide": write_llama(folder / "wide.gguf", n_ff=(160,) * 5, n_embd=128, n_vocab=333, quant=F16),
    }
    return {name: detection.analyze(str(path)) for name, path in files.items()}


@pytest.fixture(scope="session")
def machine(workers: tuple[str, ...], host: Host) -> Machine:
    """Three RPC workers as devices "RPC0" to "RPC2"."""
    return Machine(devices=rpc.devices(workers), host=host)


@pytest.fixture(scope="module")
def model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    """The tiny model on the processor."""
    loaded = LoadedModel(plan_on_cpu())
    yield loaded
    loaded.close()


@pytest.fixture
def absent(tmp_path: Path) -> Path:
    """A path with nothing there."""
    return tmp_path / "absent.gguf"
