"""Scripts for llama-cpp-python: their arguments, and runs of them."""

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.planner.saved import CONTEXT, absent, local, remote, saved_plan
from tools.random_model import write_llama
from vram_llm.planner.export.llama_cpp_python import script
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import FlashAttention, Plan, Workload
from vram_llm.workflows import detection, planning


def arguments(plan: Plan) -> dict[str, object]:
    """The arguments that the script passes to `Llama`, by name."""
    for node in ast.walk(ast.parse(script(plan))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Llama":
            by_name = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in node.keywords}
            return by_name | {"model": ast.literal_eval(node.args[0])}
    raise AssertionError("the script does not use Llama")


def run(plan: Plan, folder: Path) -> str:
    """Run the script in a process of its own; the text that it prints."""
    path = folder / "script.py"
    path.write_text(script(plan))
    done = subprocess.run(
        [sys.executable, str(path)], env=dict(os.environ), capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script_for_local_cuda_cards_uses_the_class() -> None:
    plan = saved_plan([local(1), local(0)], [20, 60])
    found = arguments(plan)
    assert found["model"] == "/srv/models/big.gguf"
    assert (found["n_gpu_layers"], found["tensor_split"], found["n_ctx"]) == (81, [20, 61], 8192)
    assert (found["type_k"], found["type_v"], found["use_mmap"]) == (8, 1, True)
    text = script(plan)
    assert text.index("os.environ['CUDA_VISIBLE_DEVICES'] = 'GPU-1,GPU-0'") < text.index("import Llama")
    assert "compute on NVIDIA GeForce RTX 3090 Ti is larger by 504 rows" in text


def test_the_script_for_the_host_hides_all_cards() -> None:
    text = script(saved_plan([], [], n_layers=4))
    assert "os.environ['CUDA_VISIBLE_DEVICES'] = ''" in text
    assert "compute on the host" in text


@pytest.mark.parametrize(
    "plan",
    [
        saved_plan([remote(0, "10.0.0.1:50052"), local(0)], [2, 2]),
        saved_plan([local(0), local(1)], [2, 2], context=dataclasses.replace(CONTEXT, pipeline_copies=False)),
        saved_plan([local(0)], [4], context=dataclasses.replace(CONTEXT, kv_unified=False)),
    ],
)
def test_a_plan_that_the_class_cannot_express_uses_the_c_interface(plan: Plan) -> None:
    text = script(plan)
    ast.parse(text)
    assert "Llama(" not in text
    assert "params.n_outputs_max = 8" in text


def test_the_settings_of_the_kv_cache_and_of_attention() -> None:
    off = dataclasses.replace(CONTEXT, flash_attn=FlashAttention.OFF, swa_full=True, kv_offload=False)
    found = arguments(saved_plan([local(0)], [4], context=off))
    assert (found["flash_attn"], found["swa_full"], found["offload_kqv"]) == (False, True, False)
    text = script(saved_plan([local(0)], [4], context=dataclasses.replace(off, kv_unified=False)))
    for line in (
        "flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_DISABLED",
        "kv_unified = False",
        "swa_full = True",
        "op_offload, params.offload_kqv = False, False",
    ):
        assert f"params.{line}" in text


def test_the_user_fills_in_uuids_and_the_path_of_a_remote_model() -> None:
    text = script(saved_plan([absent(0)], [4], path="hf:org/repo/x.gguf"))
    assert "<UUID of NVIDIA GeForce RTX 3090 Ti>" in text
    assert "'<path of x.gguf>'" in text
    assert "# Fetch hf:org/repo/x.gguf first" in text


@pytest.mark.process
def test_the_script_runs_on_the_host(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "it's tiny.gguf")
    plan = planning.plan(str(model), detection.detect(), Workload(n_ctx=512, reserve_bytes=0, n_gpu_layers=0))
    assert run(plan, tmp_path).strip()


@pytest.mark.process
@pytest.mark.parametrize("pipeline_copies", [True, False])
def test_the_script_runs_on_workers(workers: tuple[str, ...], tmp_path: Path, pipeline_copies: bool) -> None:
    model = write_llama(tmp_path / "tiny.gguf")
    machine = detection.detect(rpc=[f"{endpoint}@1GiB" for endpoint in workers[:2]])
    workload = Workload(
        n_ctx=512, parallel=2, reserve_bytes=0, tensor_split=TensorSplit((2, 3)), kv_unified=pipeline_copies,
        n_outputs_max=4,
    )  # fmt: skip
    plan = planning.plan(str(model), machine, workload)
    context = dataclasses.replace(plan.context, pipeline_copies=pipeline_copies)
    assert plan.placement.tensor_split == (2, 3)
    assert run(dataclasses.replace(plan, context=context), tmp_path).strip()


def test_the_script_for_what_if_cards_counts_the_cores_of_its_computer() -> None:
    for counts in ([4], []):
        text = script(saved_plan([absent(0)] if counts else [], counts, n_layers=4))
        ast.parse(text)
        assert ("n_threads=os.cpu_count()," in text) == bool(counts)
        assert "import os\n" in text
