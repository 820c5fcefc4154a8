"""The child process that asks ggml's registry: `python -m vram_llm.llama.registry_worker`."""

import re
from pathlib import Path

from vram_llm.llama.child_process import SendMessage, answer
from vram_llm.llama.registry import RegistryListing, RegistryRequest
from vram_llm.machine.backend_devices import BackendDevice
from vram_llm.machine.system_files import read_text

_MAPS = Path("/proc/self/maps")
_DRIVER_LIBRARY = re.compile(r"lib(?:cudart|cublas|nccl|rccl|amdhip64|hipblas|rocblas|vulkan|sycl)\.so\S*")


def list_devices(_request: RegistryRequest, _send: SendMessage) -> RegistryListing:
    """The registries of this build and their GPUs, in ggml's order."""
    from vram_llm.llama import bindings as b

    registries = [b.reg_get(i) for i in range(b.reg_count())]
    return RegistryListing(
        built=tuple(b.reg_name(registry).decode() for registry in registries),
        devices=tuple(_described(handle) for handle in b.local_devices()),
        features=b.C.llama_print_system_info().decode("utf-8", "replace"),
        libraries=driver_libraries(read_text(_MAPS)),
    )


def driver_libraries(maps: str) -> tuple[str, ...]:
    """The files of drivers' libraries in the text of /proc/PID/maps, without their folders."""
    names = {line.rpartition("/")[2] for line in maps.splitlines()}
    return tuple(sorted(name for name in names if _DRIVER_LIBRARY.fullmatch(name)))


def _described(handle: int) -> BackendDevice:
    from vram_llm.llama import bindings as b

    props = b.props_of(handle)
    return BackendDevice(
        registry=b.registry_of(handle),
        name=props.name.decode(),
        description=props.description.decode("utf-8", "replace"),
        total_bytes=props.memory_total,
        free_bytes=props.memory_free,
        alignment_bytes=b.buft_alignment(b.dev_buffer_type(handle)),
        is_integrated=props.type == b.INTEGRATED_GPU_DEVICE_TYPE,
        pci_bus_id=props.device_id.decode().lower() if props.device_id else None,
    )


if __name__ == "__main__":
    answer(RegistryRequest, list_devices)
