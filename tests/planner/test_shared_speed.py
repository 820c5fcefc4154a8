import dataclasses

import pytest

from tests import zoo
from tests.planner.cases import profile_of
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.measured_speed import MeasuredSpeed
from vram_llm.planner.shared_speed import COLUMNS, SharedFacts, shared_rows
from vram_llm.planner.types import Workload

FACTS = SharedFacts(date="2026-12-01", vram_llm="0.2.0", llama_cpp_python="0.3.36", os="Linux 6.8.0 x86_64")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("8b"))


def measured(test: str, tokens_per_s: float) -> MeasuredSpeed:
    return MeasuredSpeed(
        test=test, rounds_tokens_per_s=(tokens_per_s,), tokens_per_s=tokens_per_s,
        expected_tokens_per_s=2 * tokens_per_s, basis=Source.CATALOG,
    )  # fmt: skip


RESULTS = (measured("pp512", 5000.0), measured("tg128", 87.654), measured("tg128 x4", 300.0))


def test_one_stream_and_its_prompt_are_a_row_and_several_streams_another(llama: ModelProfile) -> None:
    rig = what_if(["RTX 4090 on 64GiB DDR5-6000 2ch"])
    plan = make_plan(llama, rig, Workload(n_ctx=8192), compares=False)
    one, four = shared_rows(plan, llama, RESULTS, FACTS)
    assert tuple(one) == tuple(four) == COLUMNS
    expected = {
        "date": "2026-12-01", "gpus": "NVIDIA GeForce RTX 4090@24GiB", "host_ram": "64 GiB DDR5-6000 2ch",
        "quant": "Q8_0", "architecture": "llama", "kind": "dense", "n_layers": "32",
        "placement": "all on GPU", "streams": "1", "pp_tokens": "512", "pp_tok_s": "5000",
        "pp_predicted": "1e+04", "tg_tok_s": "87.65", "tg_predicted": "175.3", "gen_tokens": "128",
        "kv_type": "f16", "backend": "cuda", "generation": "Ada", "n_cards": "1", "basis": "catalog",
        "expressible": "yes",
    }  # fmt: skip
    assert {name: one[name] for name in expected} == expected
    assert (four["streams"], four["tg_tok_s"], four["pp_tok_s"]) == ("4", "300", "")
    assert not any("/" in value for name, value in one.items() if name != "kv_type")  # no path


@pytest.mark.parametrize(
    ("rig", "wish", "placement", "gpus"),
    [
        ("RTX 4090", Workload(n_ctx=8192, n_gpu_layers=20), "-ngl 20", "NVIDIA GeForce RTX 4090@24GiB"),
        ("2x RTX 3060 12GB", Workload(n_ctx=65536), "all on GPU", "2x NVIDIA GeForce RTX 3060 12GB@12GiB"),
        ("RTX 4090", Workload(n_ctx=8192, n_gpu_layers=0), "CPU only", ""),
        ("R9700@Vulkan", Workload(n_ctx=8192), "all on GPU", "AMD Radeon AI PRO R9700@32GiB"),
    ],
)
def test_the_placement_is_in_the_words_of_llama_cpp(
    llama: ModelProfile, rig: str, wish: Workload, placement: str, gpus: str
) -> None:
    machine = what_if([rig])
    plan = make_plan(llama, machine, dataclasses.replace(wish, op_offload=False), compares=False)
    row = shared_rows(plan, llama, RESULTS[:2], FACTS)[0]
    assert (row["placement"], row["gpus"]) == (placement, gpus)
    if gpus:
        assert len(what_if([gpus]).devices) == int(row["n_cards"])  # --gpu reads it
