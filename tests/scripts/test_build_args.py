from dataclasses import replace

import pytest

from scripts.build_args import (
    Facts,
    SetupError,
    choose_backend,
    choose_jobs,
    cpu_args,
    plan_build,
    wheel_key,
)

HASWELL = frozenset(["sse4_2", "avx", "avx2", "fma", "f16c", "bmi2"])
SKYLAKE_X = HASWELL | frozenset(["avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"])
SAPPHIRE_RAPIDS = SKYLAKE_X | frozenset(
    ["avx_vnni", "avx512vbmi", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"]
)
PLAIN = Facts(system="Linux", arch="x86_64", cores=8, available_bytes=64 * 2**30, cpu_flags=HASWELL)
CUDA = replace(PLAIN, nvcc="/usr/bin/nvcc", nvidia_driver=True, nvidia_capabilities=("8.6",))
ROCM = replace(PLAIN, hipcc="/opt/rocm/bin/hipcc", kfd=True)
VULKAN = replace(PLAIN, glslc="/usr/bin/glslc", vulkan_headers=True, render_node=True)
MAC = Facts(system="Darwin", arch="arm64", cores=10, available_bytes=None)


@pytest.mark.parametrize(
    ("facts", "wanted", "backend", "reason"),
    [
        (PLAIN, "", "cpu", "no GPU driver found"),
        (CUDA, "", "cuda", "nvcc at /usr/bin/nvcc and an NVIDIA driver"),
        (replace(CUDA, nvidia_driver=False), "", "cpu", "nvcc is here but no NVIDIA driver"),
        (replace(CUDA, nvcc=None), "", "cpu", "no nvcc: install the CUDA toolkit"),
        (ROCM, "", "rocm", "/dev/kfd"),
        (replace(ROCM, kfd=False), "", "cpu", "no GPU driver found"),
        (replace(ROCM, hipcc=None), "", "cpu", "no hipcc: install ROCm"),
        (VULKAN, "", "vulkan", "glslc at /usr/bin/glslc"),
        (replace(VULKAN, render_node=False), "", "cpu", "no GPU driver found"),
        (replace(VULKAN, vulkan_headers=False), "", "cpu", "not all of glslc"),
        (replace(CUDA, glslc="glslc", vulkan_headers=True, render_node=True), "", "cuda", "nvcc"),
        (replace(ROCM, glslc="glslc", vulkan_headers=True, render_node=True), "", "rocm", "hipcc"),
        (MAC, "", "metal", "a Mac"),
        (CUDA, "cpu", "cpu", "VRAM_LLM_BACKEND"),
        (replace(CUDA, nvidia_driver=False), "cuda", "cuda", "VRAM_LLM_BACKEND"),
        (replace(CUDA, glslc="glslc"), "vulkan", "vulkan", "VRAM_LLM_BACKEND"),
    ],
)
def test_back_end(facts: Facts, wanted: str, backend: str, reason: str) -> None:
    chosen, why = choose_backend(facts, wanted)
    assert chosen == backend
    assert reason in why


@pytest.mark.parametrize(
    ("facts", "wanted", "message"),
    [
        (PLAIN, "opencl", "VRAM_LLM_BACKEND=opencl is not one of cpu, cuda, rocm, vulkan, metal"),
        (PLAIN, "cuda", "needs nvcc, which is not here"),
        (PLAIN, "rocm", "needs hipcc"),
        (PLAIN, "vulkan", "needs glslc"),
        (PLAIN, "metal", "needs a Mac"),
    ],
)
def test_a_back_end_that_cannot_be_built_is_refused(facts: Facts, wanted: str, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        choose_backend(facts, wanted)


@pytest.mark.parametrize(
    ("flags", "on"),
    [
        (frozenset({"sse2"}), ""),
        (HASWELL, "SSE42 AVX AVX2 FMA F16C BMI2"),
        (SKYLAKE_X, "SSE42 AVX AVX2 FMA F16C BMI2 AVX512"),
        (SKYLAKE_X - {"avx512bw"}, "SSE42 AVX AVX2 FMA F16C BMI2"),
        (SAPPHIRE_RAPIDS - {"avx512vl"}, "SSE42 AVX AVX2 FMA F16C BMI2 AVX_VNNI"),
        (
            SAPPHIRE_RAPIDS,
            "SSE42 AVX AVX2 FMA F16C BMI2 AVX_VNNI AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16",
        ),
    ],
)
def test_instruction_sets_are_named_one_by_one(flags: frozenset[str], on: str) -> None:
    args, _ = cpu_args(replace(PLAIN, cpu_flags=flags))
    switched_on = {arg.removeprefix("-DGGML_").removesuffix("=ON") for arg in args if arg.endswith("=ON")}
    assert switched_on == set(on.split())
    assert len(args) == 12
    assert args[0] == "-DGGML_NATIVE=OFF"
    assert not any("AMX" in arg for arg in args)


@pytest.mark.parametrize(
    "facts", [MAC, replace(PLAIN, arch="aarch64"), replace(PLAIN, cpu_flags=frozenset())]
)
def test_other_processors_are_left_to_llama_cpp(facts: Facts) -> None:
    assert cpu_args(facts)[0] == ()


@pytest.mark.parametrize(
    ("cores", "available_gib", "wanted", "jobs"),
    [(8, 64, "", 8), (8, 5, "", 2), (8, 1, "", 1), (2, None, "", 2), (8, 1, "16", 16)],
)
def test_jobs(cores: int, available_gib: int | None, wanted: str, jobs: int) -> None:
    available = None if available_gib is None else available_gib * 2**30
    assert choose_jobs(replace(PLAIN, cores=cores, available_bytes=available), wanted)[0] == jobs


@pytest.mark.parametrize("wanted", ["0", "-1", "many"])
def test_jobs_must_be_a_number(wanted: str) -> None:
    with pytest.raises(SetupError, match="not a number of jobs"):
        choose_jobs(PLAIN, wanted)


@pytest.mark.parametrize(
    ("facts", "args"),
    [
        (PLAIN, set()),
        (CUDA, {"-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native"}),
        (ROCM, {"-DGGML_HIP=ON"}),
        (VULKAN, {"-DGGML_VULKAN=ON"}),
        (MAC, {"-DGGML_METAL=ON"}),
    ],
)
def test_each_back_end_is_switched_on_beside_rpc(facts: Facts, args: set[str]) -> None:
    built = plan_build(facts, {}).cmake_args
    assert set(built) - set(cpu_args(facts)[0]) == {"-DGGML_RPC=ON"} | args


def test_cuda_without_a_card_is_built_for_all_cards() -> None:
    facts = replace(CUDA, nvidia_driver=False, nvidia_capabilities=())
    build = plan_build(facts, {"VRAM_LLM_BACKEND": "cuda"})
    assert "-DGGML_CUDA=ON" in build.cmake_args
    assert not any("ARCHITECTURES" in arg for arg in build.cmake_args)


def test_own_arguments_come_last() -> None:
    build = plan_build(PLAIN, {"CMAKE_ARGS": "-DGGML_AVX2=OFF '-DCMAKE_C_FLAGS=-O2 -g'"})
    assert build.cmake_args[-2:] == ("-DGGML_AVX2=OFF", "-DCMAKE_C_FLAGS=-O2 -g")


def test_every_decision_has_a_line() -> None:
    reasons = plan_build(PLAIN, {"CMAKE_ARGS": "-DX=1"}).reasons
    assert [reason.partition(":")[0] for reason in reasons] == ["back end", "processor", "jobs", "CMAKE_ARGS"]


def test_the_wheels_key_follows_what_is_built_and_nothing_else() -> None:
    build = plan_build(PLAIN, {})
    key = wheel_key(build, "x==1", "cpython-311", ("gcc 12",), "Linux")
    assert key == wheel_key(replace(build, jobs=1, reasons=()), "x==1", "cpython-311", ("gcc 12",), "Linux")
    others = {
        wheel_key(plan_build(CUDA, {}), "x==1", "cpython-311", ("gcc 12",), "Linux"),
        wheel_key(build, "x==2", "cpython-311", ("gcc 12",), "Linux"),
        wheel_key(build, "x==1", "cpython-312", ("gcc 12",), "Linux"),
        wheel_key(build, "x==1", "cpython-311", ("gcc 13",), "Linux"),
        wheel_key(build, "x==1", "cpython-311", ("gcc 12",), "Linux 8.6"),
    }
    assert len(others | {key}) == 6
