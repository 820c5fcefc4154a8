"""The devices that llama.cpp's own back ends list.

Back ends start drivers as soon as they are asked, and a driver may hang or crash: a child process asks.
"""

import importlib.util
import os
import re
from pathlib import Path

import msgspec

from vram_llm.errors import VramLLMError
from vram_llm.llama.child_process import ask
from vram_llm.machine.backend_devices import BackendDevice, Backends

_SILENCE_S = 60.0  # drivers of many cards take seconds each
_LIBRARY = re.compile(r"(?:lib)?ggml-(\w+)\.(?:so|dylib|dll)")
_NO_DEVICES = {"base", "cpu", "rpc", "blas"}  # libraries of llama.cpp that bring no GPU
_LASTING = {"CUDA"}  # registries whose devices' free memory NVML reports


class RegistryRequest(msgspec.Struct, frozen=True):
    """Asks for the list of devices."""


class RegistryListing(msgspec.Struct, frozen=True, tag=True):
    """The registries of the build, their GPUs, and what the build is made for."""

    built: tuple[str, ...]
    devices: tuple[BackendDevice, ...]
    features: str = ""  # llama_print_system_info: "CPU : AVX2 = 1 | CUDA : ARCHS = 860 | "
    libraries: tuple[str, ...] = ()  # of drivers, by the names of their files: "libcudart.so.12.8.90"


_last: Backends | None = None


def backends() -> Backends:
    """The devices that the installed llama.cpp supports on this computer. A failure becomes a note.

    Asked once in a process, or again if only a back end itself reports its free memory.
    """
    global _last
    if _last is None or {device.registry for device in _last.devices} - _LASTING:
        _last = _ask() if gpu_libraries() else Backends()
    return _last


def gpu_libraries() -> frozenset[str]:
    """The names of the libraries next to libllama that drive GPUs: "cuda", "hip", "vulkan", "metal", ..."""
    folder = os.environ.get("LLAMA_CPP_LIB_PATH")  # llama-cpp-python's own variable
    if folder is None:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            return frozenset()
        folder = str(Path(spec.origin).parent / "lib")
    names = (_LIBRARY.fullmatch(path.name) for path in Path(folder).glob("*ggml-*"))
    return frozenset(name[1].partition("-")[0] for name in names if name) - _NO_DEVICES


def list_build() -> RegistryListing:
    """The back ends and devices of the installed llama.cpp. Raises NotBuilt, EngineDied."""
    return ask(
        "vram_llm.llama.registry_worker",
        RegistryRequest(),
        RegistryListing,
        "its back ends were asked for their devices",
        _SILENCE_S,
    )


def _ask() -> Backends:
    try:
        found = list_build()
    except VramLLMError as error:
        note = f"Cards are planned for as their drivers describe them: {error}."
        return Backends(notes=(note,), is_known=False)
    return Backends(built=found.built, devices=found.devices, libraries=found.libraries)
