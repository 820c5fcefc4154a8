"""The emitted llama-server command, parsed by llama-server's own rules, places a model like the plan."""

from pathlib import Path
from random import Random

import pytest

from tests.moved_placements import (
    CARDS,
    differences,
    dry_runs_of_plan_and_command,
    random_context,
    random_placement,
)
from tests.server_command import parse
from tests.zoo import PUBLISHED, gpt_oss, write
from vram_llm.llama.bindings import C
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.model.strip import write_stripped

pytestmark = pytest.mark.process

MODELS = PUBLISHED | {"gpt_oss_120b": gpt_oss}
N_PLACEMENTS = 3  # of each model


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    C.llama_backend_init()


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_with_moved_weights_is_emitted_to_the_byte(name: str, tmp_path: Path) -> None:
    """Weights, context, compute and graph splits are equal, on every device and on the host."""
    header = read_header(write(MODELS[name](), tmp_path / "whole.gguf"))
    path, model, pick = write_stripped(header, tmp_path / "model.gguf"), profile(header), Random(name)
    for _ in range(N_PLACEMENTS):
        placement, context = random_placement(pick, model), random_context(pick, model)
        planned, emitted, command = dry_runs_of_plan_and_command(path, model, placement, context)
        assert differences(planned, emitted) == [], command


def test_a_command_is_parsed_as_llama_server_parses_it() -> None:
    found = parse(
        "# a comment\nCUDA_VISIBLE_DEVICES=GPU-1,GPU-0 \\\nllama-server \\\n    --device CUDA0,CUDA1 \\\n"
        "    --n-gpu-layers 5 --tensor-split 2/3 --n-cpu-moe 2 --override-tensor 'a\\.b=CUDA1,c=CPU' \\\n"
        "    --no-kv-offload"
    )
    assert found.environment == {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-0"}
    assert (found.devices, found.tensor_split) == (["CUDA0", "CUDA1"], [2.0, 3.0])
    assert found.overrides == [
        (r"blk\.0\.ffn_(up|down|gate|gate_up)_(ch|)exps", "CPU"),
        (r"blk\.1\.ffn_(up|down|gate|gate_up)_(ch|)exps", "CPU"),
        (r"a\.b", "CUDA1"),
        ("c", "CPU"),
    ]
    assert found.no_kv_offload
    with pytest.raises(ValueError, match="--mlock"):
        parse("llama-server --mlock 1")
    assert len({card.uuid for card in CARDS}) == len(CARDS)
