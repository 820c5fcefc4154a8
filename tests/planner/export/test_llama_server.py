"""llama-server's flags and environment variables for a plan."""

import dataclasses
import shlex

import pytest

from tests.planner.saved import CONTEXT, absent, local, remote, saved_plan
from vram_llm.errors import BadPlan
from vram_llm.machine.types import Fact, Source
from vram_llm.model.pooling import Pooling
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.disk_reads import DiskReads
from vram_llm.planner.export import llama_cpp_python
from vram_llm.planner.export.llama_server import command_line, export_lines
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import FlashAttention, Plan
from vram_llm.units import GIB


def shell_words(plan: Plan) -> list[str]:
    """The words of the command as a shell reads them, without comments."""
    return shlex.split(command_line(plan).replace("\\\n", " "), comments=True)


def flags(plan: Plan) -> dict[str, str]:
    """llama-server's flags with their values; "" for switches."""
    arguments = shell_words(plan)
    arguments = arguments[arguments.index("llama-server") + 1 :]
    following = [*arguments[1:], "--"]
    return {
        argument: "" if value.startswith("--") else value
        for argument, value in zip(arguments, following, strict=True)
        if argument.startswith("--")
    }


def test_every_setting_of_a_plan_over_two_cards() -> None:
    assert flags(saved_plan([local(0), local(1)], [20, 60])) == {
        "--model": "/srv/models/big.gguf",
        "--device": "CUDA0,CUDA1",
        "--n-gpu-layers": "81",
        "--tensor-split": "20,61",
        "--split-mode": "layer",
        "--fit": "off",
        "--load-mode": "auto",
        "--ctx-size": "8192",
        "--parallel": "8",
        "--kv-unified": "",
        "--cache-type-k": "q8_0",
        "--cache-type-v": "f16",
        "--flash-attn": "auto",
        "--batch-size": "2048",
        "--ubatch-size": "512",
        "--threads": "4",
        "--cache-ram": "0",
        "--ctx-checkpoints": "0",
        "--no-op-offload": "",
        "--host": "127.0.0.1",
        "--port": "8080",
    }


def test_backend_sampling_is_a_switch() -> None:
    plan = saved_plan([local(0)], [80], context=dataclasses.replace(CONTEXT, backend_sampling=True))
    assert flags(plan)["--backend-sampling"] == ""


def test_the_settings_of_the_kv_cache_and_of_attention() -> None:
    context = dataclasses.replace(
        CONTEXT, kv_unified=False, swa_full=True, flash_attn=FlashAttention.OFF, n_outputs_max=64,
        kv_offload=False,
    )  # fmt: skip
    plan = saved_plan([local(0)], [80], context=context)
    found = flags(plan)
    assert found["--flash-attn"] == "off"
    assert {"--no-kv-unified", "--swa-full", "--no-kv-offload"} <= set(found)
    assert "--kv-unified" not in found
    lines = export_lines(plan).splitlines()
    assert "export LLAMA_ARG_KV_UNIFIED=false" in lines
    assert "export LLAMA_ARG_SWA_FULL=true" in lines
    assert "export LLAMA_ARG_KV_OFFLOAD=false" in lines
    assert "asks for 8 rows of logits" in command_line(plan)


def test_environment_variables_precede_the_command() -> None:
    plan = saved_plan([absent(0)], [4])
    assert shell_words(plan)[:3] == [
        "CUDA_DEVICE_ORDER=PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES=<UUID of NVIDIA GeForce RTX 3090 Ti>",
        "llama-server",
    ]


def test_rpc_precedes_device() -> None:
    plan = saved_plan([remote(0, "10.0.0.1:50052"), remote(1, "10.0.0.2:50052")], [2, 2])
    found = shell_words(plan)
    assert found[0] == "llama-server"
    assert flags(plan)["--rpc"] == "10.0.0.1:50052,10.0.0.2:50052"
    assert flags(plan)["--device"] == "RPC0,RPC1"
    assert found.index("--rpc") < found.index("--device")


def test_a_plan_without_cards_uses_no_device() -> None:
    found = flags(saved_plan([], [], n_layers=4))
    assert (found["--device"], found["--n-gpu-layers"]) == ("none", "0")
    assert "--tensor-split" not in found


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a b/it's.gguf", {"--model": "/a b/it's.gguf"}),
        ("https://host/x.gguf", {"--model-url": "https://host/x.gguf"}),
        (
            "hf:org/repo/sub/x-00001-of-00002.gguf",
            {"--hf-repo": "org/repo", "--hf-file": "sub/x-00001-of-00002.gguf", "--no-mmproj": ""},
        ),
        ("hf:org/repo@v2/x.gguf", {"--model-url": "https://huggingface.co/org/repo/resolve/v2/x.gguf"}),
    ],
)
def test_the_flags_of_the_models_path(path: str, expected: dict[str, str]) -> None:
    found = flags(saved_plan([local(0)], [4], path=path))
    names = ("--model", "--model-url", "--hf-repo", "--hf-file", "--no-mmproj")
    assert {name: found[name] for name in names if name in found} == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"use_mmap": False}, {"--load-mode": "none"}),
        ({"pipeline_copies": False}, {"--override-tensor": "^$=CPU"}),
        ({"parallel": 2, "n_ctx": 512}, {"--parallel": "2", "--ctx-size": "512"}),
    ],
)
def test_the_flags_of_context_fields(fields: dict[str, object], expected: dict[str, str]) -> None:
    context = dataclasses.replace(CONTEXT, **fields)  # type: ignore[arg-type]  # fields by name
    found = flags(saved_plan([local(0), local(1)], [2, 2], context=context))
    assert expected.items() <= found.items()


def test_llama_server_reads_everything_from_the_disk() -> None:
    reads = DiskReads(
        dense_bytes=2 * GIB, expert_bytes=GIB, cyclic_bytes=7 * GIB, resident_bytes=4 * GIB,
        window_bytes=GIB, bytes_per_s=Fact(3e9, Source.GIVEN),
    )  # fmt: skip
    plan = saved_plan([local(0)], [4], context=dataclasses.replace(CONTEXT, resident_bytes=4 * GIB))
    assert "--no-repack" not in flags(plan)
    plan = dataclasses.replace(plan, disk_reads=reads)
    found = flags(plan)
    assert (found["--no-repack"], found["--load-mode"]) == ("", "auto")
    comments = [line for line in command_line(plan).splitlines() if line.startswith("#")]
    assert any(
        "7.00 GiB; the plan is for `vram-llm serve`, which reads 3.00 GiB" in line for line in comments
    )
    with pytest.raises(BadPlan, match="serve --from-disk"):
        llama_cpp_python.script(plan)


def with_overrides(plan: Plan, *overrides: Override) -> Plan:
    return dataclasses.replace(plan, placement=dataclasses.replace(plan.placement, overrides=overrides))


EXPERTS, FFN = LayerPart.EXPERTS, LayerPart.FFN


@pytest.mark.parametrize(
    ("overrides", "flag", "value"),
    [
        ([Override.of(EXPERTS, range(3), "host")], "--n-cpu-moe", "3"),
        ([Override.of(FFN, range(4), "host")], "--n-cpu-ffn", "4"),
        ([Override.of_all(EXPERTS, "host")], "--cpu-moe", ""),
        (
            [Override.of(EXPERTS, (1, 3), "host"), Override.of(EXPERTS, (0,), "GPU1")],
            "--override-tensor",
            r"^blk\.(?:1|3)\.ffn_(?:up|down|gate|gate_up)_(?:ch)?exps\.=CPU,"
            r"^blk\.(?:0)\.ffn_(?:up|down|gate|gate_up)_(?:ch)?exps\.=CUDA1",
        ),
        ([Override.of(EXPERTS, range(3), "GPU1")], "--override-tensor", "=CUDA1"),
        ([Override.of(LayerPart.FFN_DOWN, range(3), "host")], "--override-tensor", r"\.ffn_down\.=CPU"),
        ([Override(pattern="_shexp", device="host")], "--override-tensor", "_shexp=CPU"),
    ],
)
def test_weights_on_another_device_than_their_layer(overrides: list[Override], flag: str, value: str) -> None:
    found = flags(with_overrides(saved_plan([local(0), local(1)], [2, 2]), *overrides))
    names = {"--override-tensor", "--n-cpu-moe", "--n-cpu-ffn", "--cpu-moe"} & found.keys()
    assert names == {flag}
    assert found[flag].endswith(value)


def test_options_for_the_first_layers_are_not_used_with_encoder_and_decoder_layers() -> None:
    plan = with_overrides(saved_plan([local(0)], [4]), Override.of(FFN, range(4), "host"))
    found = flags(dataclasses.replace(plan, model=dataclasses.replace(plan.model, architecture="t5")))
    assert found["--override-tensor"].startswith("^blk")


def test_an_override_to_a_worker_names_its_buffer_type() -> None:
    plan = saved_plan([local(0), remote(0, "10.0.0.1:50052", 1)], [2, 2])
    found = flags(with_overrides(plan, Override.of(EXPERTS, (0,), "RPC0")))
    assert found["--override-tensor"].endswith("exps\\.=RPC1[10.0.0.1:50052]")


def test_weights_read_into_host_memory_get_large_pages() -> None:
    context = dataclasses.replace(CONTEXT, use_mmap=False)
    plan = saved_plan([local(0)], [2], n_layers=4, context=context)
    assert "GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in shell_words(plan)
    assert "export GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in export_lines(plan).splitlines()
    assert "GLIBC_TUNABLES" not in command_line(saved_plan([local(0)], [4], context=context))
    assert "GLIBC_TUNABLES" not in command_line(saved_plan([local(0)], [2], n_layers=4))


def test_environment_variables_have_the_values_of_the_flags() -> None:
    plan = saved_plan([local(0), remote(0, "10.0.0.1:50052")], [2, 2])
    lines = export_lines(plan).splitlines()
    variables = dict(shlex.split(line)[1].split("=", 1) for line in lines if line.startswith("export "))
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    assert variables["LLAMA_ARG_DEVICE"] == "CUDA0,RPC0"
    assert variables["LLAMA_ARG_RPC"] == "10.0.0.1:50052"
    assert variables["LLAMA_ARG_N_GPU_LAYERS"] == "5"
    assert variables["LLAMA_ARG_KV_UNIFIED"] == "true"
    assert len(variables) == len(flags(plan)) - 1 + 2  # without --no-op-offload, with CUDA's two
    assert any(line.startswith("# ") and "llama-server --no-op-offload" in line for line in lines)
    assert all(line.startswith(("# ", "export ")) for line in lines)


def test_llama_server_downloads_no_projector_that_the_plan_has_not_counted() -> None:
    assert "export LLAMA_ARG_MMPROJ_AUTO=false" in export_lines(
        saved_plan([local(0)], [4], path="hf:o/r/x.gguf")
    )


@pytest.mark.parametrize("line_break", ["\n", "\r", "\x85", "\u2028"])
def test_a_models_name_cannot_end_its_comment(line_break: str) -> None:
    plan = saved_plan([local(0)], [4])
    plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, name=f"x{line_break}rm -rf ."))
    for text in (command_line(plan), export_lines(plan)):
        assert not any(line.startswith("rm") for line in text.splitlines())


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [(Pooling.MEAN, {"--embeddings": "", "--pooling": "mean"}), (Pooling.RANK, {"--reranking": ""})],
)
def test_the_flags_of_embedding_models_and_rerankers(pooling: Pooling, expected: dict[str, str]) -> None:
    context = dataclasses.replace(CONTEXT, pooling=pooling)
    found = flags(saved_plan([local(0)], [80], context=context))
    assert {name: found.get(name) for name in expected} == expected


def test_a_plan_for_what_if_cards_has_no_threads_of_this_computer() -> None:
    plan = saved_plan([absent(0)], [4])
    assert "--threads" not in flags(plan)
    assert "LLAMA_ARG_THREADS" not in export_lines(plan)
    given = dataclasses.replace(CONTEXT, n_threads=6, n_threads_given=True, n_threads_batch=12)
    found = flags(saved_plan([absent(0)], [4], context=given))
    assert (found["--threads"], found["--threads-batch"]) == ("6", "12")


def test_an_mtp_head_drafts_in_llama_server_too() -> None:
    context = dataclasses.replace(CONTEXT, n_mtp=8, n_outputs_max=4 * CONTEXT.parallel)
    plan = saved_plan([local(0)], [4], context=context)
    given = flags(plan)
    assert (given["--spec-type"], given["--spec-draft-n-max"]) == ("draft-mtp", "3")
    assert "--model-draft" not in given
    with pytest.raises(BadPlan, match="does not use the model's MTP head"):
        llama_cpp_python.script(plan)
