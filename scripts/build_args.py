"""Decide which llama.cpp to build: from facts about the computer to a back end, CMake arguments and reasons.

Pure functions, standard library only: the set-up runs them before anything is installed.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

BACKENDS = ("cpu", "cuda", "rocm", "vulkan", "metal")

# ggml/CMakeLists.txt's options for x86-64 and the names /proc/cpuinfo must list for each. GGML_AVX512
# compiles with five subsets at once (ggml/src/ggml-cpu/CMakeLists.txt).
X86_OPTIONS: dict[str, tuple[str, ...]] = {
    "GGML_SSE42": ("sse4_2",),
    "GGML_AVX": ("avx",),
    "GGML_AVX2": ("avx2",),
    "GGML_FMA": ("fma",),
    "GGML_F16C": ("f16c",),
    "GGML_BMI2": ("bmi2",),
    "GGML_AVX_VNNI": ("avx_vnni",),
    "GGML_AVX512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
    "GGML_AVX512_VBMI": ("avx512vbmi",),
    "GGML_AVX512_VNNI": ("avx512_vnni",),
    "GGML_AVX512_BF16": ("avx512_bf16",),
}
JOB_BYTES = 2 * 2**30  # the largest translation units of llama.cpp need about this much


class SetupError(Exception):
    """The set-up cannot continue; the message is one sentence for its user."""


@dataclass(frozen=True)
class Facts:
    """The facts for the decision. `None` or an empty value: not there."""

    system: str  # platform.system(): "Linux", "Darwin"
    arch: str  # platform.machine(): "x86_64", "aarch64", "arm64"
    cores: int
    available_bytes: int | None
    cpu_flags: frozenset[str] = frozenset()
    nvcc: str | None = None
    nvidia_driver: bool = False
    nvidia_capabilities: tuple[str, ...] = ()
    hipcc: str | None = None
    kfd: bool = False
    glslc: str | None = None
    vulkan_headers: bool = False
    render_node: bool = False


@dataclass(frozen=True)
class Build:
    """The build: back end, arguments, jobs, and a line with the reason for each decision."""

    backend: str
    cmake_args: tuple[str, ...]
    jobs: int
    reasons: tuple[str, ...]


def choose_backend(facts: Facts, wanted: str = "") -> tuple[str, str]:
    """The back end and the reason. `wanted` is VRAM_LLM_BACKEND.

    A toolkit alone does not select its back end: a machine without the card may have it, and building for
    CUDA takes an hour on two cores. Raises SetupError.
    """
    if wanted:
        return _forced(facts, wanted), "VRAM_LLM_BACKEND says so"
    if facts.system == "Darwin":
        return "metal", "a Mac"
    if facts.nvcc and facts.nvidia_driver:
        return "cuda", f"nvcc at {facts.nvcc} and an NVIDIA driver"
    if facts.hipcc and facts.kfd:
        return "rocm", f"hipcc at {facts.hipcc} and /dev/kfd"
    if facts.glslc and facts.vulkan_headers and facts.render_node:
        return "vulkan", f"glslc at {facts.glslc}, Vulkan's headers and a render node"
    return "cpu", _why_no_gpu(facts)


def _forced(facts: Facts, wanted: str) -> str:
    if wanted not in BACKENDS:
        raise SetupError(f"VRAM_LLM_BACKEND={wanted} is not one of {', '.join(BACKENDS)}")
    tools = {"cuda": ("nvcc", facts.nvcc), "rocm": ("hipcc", facts.hipcc), "vulkan": ("glslc", facts.glslc)}
    tool, found = tools.get(wanted, ("", "none needed"))
    if found is None:
        raise SetupError(
            f"VRAM_LLM_BACKEND={wanted} needs {tool}, which is not here: install it or add it to PATH"
        )
    if wanted == "metal" and facts.system != "Darwin":
        raise SetupError("VRAM_LLM_BACKEND=metal needs a Mac")
    return wanted


def _why_no_gpu(facts: Facts) -> str:
    if facts.nvidia_driver:
        return "an NVIDIA driver is here but no nvcc: install the CUDA toolkit and run the set-up again"
    if facts.kfd:
        return "an AMD GPU driver is here but no hipcc: install ROCm and run the set-up again"
    if facts.render_node:
        return "a render node is here but not all of glslc and Vulkan's and SPIR-V's headers"
    if facts.nvcc:
        return "nvcc is here but no NVIDIA driver"
    return "no GPU driver found"


def cpu_args(facts: Facts) -> tuple[tuple[str, ...], str]:
    """CMake arguments for the processor, and the reason.

    On x86-64 Linux the arguments name every instruction set that the kernel lists, except AMX: GGML_NATIVE
    would add it, and on some virtual machines its kernels crash at the first decode.
    """
    if facts.system != "Linux" or facts.arch not in ("x86_64", "AMD64") or not facts.cpu_flags:
        return (), f"{facts.arch}: llama.cpp's own choice for this machine"
    on = {option: facts.cpu_flags.issuperset(_required(option)) for option in X86_OPTIONS}
    args = tuple(f"-D{option}={'ON' if on[option] else 'OFF'}" for option in X86_OPTIONS)
    names = " ".join(option.removeprefix("GGML_") for option in X86_OPTIONS if on[option])
    return (
        "-DGGML_NATIVE=OFF",
        *args,
    ), f"{facts.arch} with {names or 'nothing beyond SSE2'}, as the kernel lists them"


def _required(option: str) -> tuple[str, ...]:
    base = X86_OPTIONS["GGML_AVX512"] if option.startswith("GGML_AVX512_") else ()
    return (*base, *X86_OPTIONS[option])


def choose_jobs(facts: Facts, wanted: str = "") -> tuple[int, str]:
    """Compilers to run at once: one per core, or fewer if memory is short. Raises SetupError."""
    if wanted:
        if not wanted.isdigit() or int(wanted) == 0:
            raise SetupError(f"CMAKE_BUILD_PARALLEL_LEVEL={wanted} is not a number of jobs")
        return int(wanted), "CMAKE_BUILD_PARALLEL_LEVEL says so"
    fit = facts.cores if facts.available_bytes is None else max(1, facts.available_bytes // JOB_BYTES)
    if fit < facts.cores:
        return fit, f"{facts.cores} cores, but free memory holds {fit} compiler{'s' if fit > 1 else ''}"
    return facts.cores, f"{facts.cores} cores"


def backend_args(facts: Facts, backend: str) -> tuple[str, ...]:
    """CMake arguments that switch `backend` on."""
    if backend == "cuda":
        # "native" needs a card; without one, llama.cpp's own list of architectures is built.
        native = ("-DCMAKE_CUDA_ARCHITECTURES=native",) if facts.nvidia_driver else ()
        return ("-DGGML_CUDA=ON", *native)
    options = {"rocm": "-DGGML_HIP=ON", "vulkan": "-DGGML_VULKAN=ON", "metal": "-DGGML_METAL=ON"}
    return (options[backend],) if backend in options else ()


def plan_build(facts: Facts, environment: Mapping[str, str]) -> Build:
    """The whole decision. It reads VRAM_LLM_BACKEND, CMAKE_BUILD_PARALLEL_LEVEL and CMAKE_ARGS (last, so that
    they win) from `environment`. Raises SetupError if one of them cannot be used.
    """
    backend, why_backend = choose_backend(facts, environment.get("VRAM_LLM_BACKEND", ""))
    cpu, why_cpu = cpu_args(facts)
    jobs, why_jobs = choose_jobs(facts, environment.get("CMAKE_BUILD_PARALLEL_LEVEL", ""))
    own = tuple(shlex.split(environment.get("CMAKE_ARGS", "")))
    reasons = [f"back end: {backend} ({why_backend})", f"processor: {why_cpu}", f"jobs: {jobs} ({why_jobs})"]
    if own:
        reasons.append(f"CMAKE_ARGS: {shlex.join(own)}")
    args = ("-DGGML_RPC=ON", *cpu, *backend_args(facts, backend), *own)
    return Build(backend=backend, cmake_args=args, jobs=jobs, reasons=tuple(reasons))


def wheel_key(build: Build, version: str, python_tag: str, compilers: tuple[str, ...], target: str) -> str:
    """A key for the built wheel: equal keys mean equal builds.

    `target` is the meaning of "native" for the compilers here: the architecture and the GPUs' capabilities.
    """
    parts = (version, *build.cmake_args, python_tag, *compilers, target)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
