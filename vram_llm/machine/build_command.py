"""The command that installs llama-cpp-python with a back end."""

from vram_llm.machine import json_store
from vram_llm.machine.types import DeviceKind

REMEDY = "This builds one that can"
"""Begins the sentence with the command in notes on a device that the build cannot use."""

_OPTIONS = {  # of ggml/CMakeLists.txt
    DeviceKind.CUDA: "GGML_CUDA",
    DeviceKind.ROCM: "GGML_HIP",
    DeviceKind.VULKAN: "GGML_VULKAN",
    DeviceKind.METAL: "GGML_METAL",
    DeviceKind.SYCL: "GGML_SYCL",
}


def build_command(kind: DeviceKind) -> str:
    """The shell command that builds a llama.cpp for devices of `kind` and for RPC workers."""
    options = [f"-D{_OPTIONS[kind]}=ON"] if kind in _OPTIONS else []
    return (
        f'CMAKE_ARGS="{" ".join([*options, "-DGGML_RPC=ON"])}" pip install --force-reinstall --no-deps '
        f"--no-cache-dir --no-binary llama-cpp-python llama-cpp-python=={json_store.llama_cpp_version()}"
    )
