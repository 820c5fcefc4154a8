"""The names that ggml gives a plan's devices in another process, and the variables that make it so."""

from collections.abc import Sequence
from dataclasses import dataclass

from vram_llm.errors import BadPlan
from vram_llm.machine.types import DeviceKind
from vram_llm.planner.types import Plan, PlannedDevice

# GGML_CUDA_NAME of ggml-cuda.h, GGML_VK_NAME, GGML_METAL_NAME, GGML_SYCL_NAME; a number follows.
PREFIXES = {
    DeviceKind.CUDA: "CUDA",
    DeviceKind.ROCM: "ROCm",
    DeviceKind.VULKAN: "Vulkan",
    DeviceKind.METAL: "MTL",
    DeviceKind.SYCL: "SYCL",
    DeviceKind.RPC: "RPC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedDevices:
    """The devices that a plan uses, with the names that ggml gives them in another process.

    `devices` are in the placement's order; devices without layers come last. `names` are ggml's names of
    `devices` ("CUDA0", "RPC1"): CUDA cards are numbered in the order of `devices`, other local devices have
    the names that llama.cpp lists on this computer. `uuids` are the UUIDs of the CUDA cards, in the same
    order. `endpoints` are the addresses of the RPC workers; their order decides the numbers of RPC devices.
    `remarks` are sentences for the user.
    """

    devices: tuple[PlannedDevice, ...]
    names: tuple[str, ...]
    uuids: tuple[str, ...]
    endpoints: tuple[str, ...]
    remarks: tuple[str, ...]

    def name_of(self, device_id: str | None) -> str:
        """ggml's name of the device with this id; "none" for the host (None)."""
        names = (
            name for name, device in zip(self.names, self.devices, strict=True) if device.id == device_id
        )
        return next(names, "none")

    def buffer_type_of(self, device_id: str) -> str:
        """ggml's name of a device's buffer type, as --override-tensor takes it; "CPU" for the host.

        A local device's buffer type has the device's name. An RPC device's has the worker's address in it
        (ggml_backend_rpc_buffer_type of ggml-rpc.cpp).
        """
        device = next((device for device in self.devices if device.id == device_id), None)
        if device is None:
            return "CPU"
        if device.endpoint is not None:
            return f"RPC{device.endpoint_index}[{device.endpoint}]"
        return self.name_of(device_id)

    @property
    def cuda_variables(self) -> tuple[tuple[str, str], ...]:
        """Environment variables that make CUDA number the cards as in `names`; empty without CUDA cards.

        CUDA numbers the cards in the order of CUDA_VISIBLE_DEVICES.
        """
        if not self.uuids:
            return ()
        return (("CUDA_DEVICE_ORDER", "PCI_BUS_ID"), ("CUDA_VISIBLE_DEVICES", ",".join(self.uuids)))


def exported_devices(plan: Plan, cuda_order: Sequence[str] = ()) -> ExportedDevices:
    """The devices that `plan` uses. Raises BadPlan if its placement names a device that it does not list.

    `cuda_order` are ids of CUDA cards, in the order in which CUDA_VISIBLE_DEVICES of a process for several
    plans lists them; empty: the process has the plan's own cards.
    """
    by_id = {device.id: device for device in plan.devices}
    if unknown := [device_id for device_id in plan.placement.device_order if device_id not in by_id]:
        raise BadPlan(f"the plan places layers on {unknown[0]}, which is not one of its devices; plan again")
    devices = tuple(by_id[device_id] for device_id in plan.used)
    numbers = _rpc_numbers(plan, devices)
    counts: dict[DeviceKind, int] = {}
    names = []
    for device in devices:
        if device.endpoint is not None:
            names.append(f"{PREFIXES[device.kind]}{numbers[device.endpoint, device.endpoint_index]}")
        elif device.ggml_name is not None and device.kind is not DeviceKind.CUDA:
            names.append(device.ggml_name)
        elif device.id in cuda_order:
            names.append(f"{PREFIXES[device.kind]}{cuda_order.index(device.id)}")
        else:
            number = counts.get(device.kind, 0)
            counts[device.kind] = number + 1
            names.append(f"{PREFIXES[device.kind]}{number}")
    return ExportedDevices(
        devices=devices,
        names=tuple(names),
        uuids=tuple(
            device.uuid or f"<UUID of {device.name}>" for device in devices if device.kind is DeviceKind.CUDA
        ),
        endpoints=tuple(dict.fromkeys(endpoint for endpoint, _ in numbers)),
        remarks=_remarks(devices),
    )


def environment_variables(plan: Plan, exported: ExportedDevices) -> tuple[tuple[str, str], ...]:
    """Environment variables for the program that loads the plan, as (name, value).

    If it reads weights into the host's memory, glibc puts them into large pages, as in this program's engine
    (stderr_reason.environment).
    """
    large_pages: tuple[tuple[str, str], ...] = ()
    if not plan.context.use_mmap and plan.placement.shares_layers_with_host:
        large_pages = (("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),)
    return (*exported.cuda_variables, *large_pages)


def exported_threads(plan: Plan) -> int | None:
    """The plan's number of CPU threads; None if it is for another computer whose processor is unknown."""
    is_known = not plan.is_what_if
    if plan.host is not None and plan.host.what_if:
        is_known = plan.host.cpu_name is not None
    return plan.context.n_threads if is_known or plan.context.n_threads_given else None


def _rpc_numbers(plan: Plan, devices: tuple[PlannedDevice, ...]) -> dict[tuple[str, int], int]:
    """ggml's number of each device of the workers in use, by endpoint and index.

    ggml numbers all devices of all workers in the order in which the workers are added
    (ggml_backend_rpc_add_server in ggml-rpc.cpp), so a worker's unused devices count too. A plan lists every
    device of a worker.
    """
    used = {device.endpoint for device in devices}
    keys = [(d.endpoint, d.endpoint_index) for d in plan.devices if d.endpoint and d.endpoint in used]
    return {key: number for number, key in enumerate(keys)}


def _remarks(devices: tuple[PlannedDevice, ...]) -> tuple[str, ...]:
    sentences = []
    if any(device.what_if for device in devices):
        sentences.append(
            "Planned for cards that are not in this machine: replace the words in angle brackets."
        )
    if any(device.kind is DeviceKind.CUDA and device.uuid is None for device in devices):
        sentences.append("`nvidia-smi -L` lists the UUIDs.")
    unnamed_kinds = {device.kind for device in devices if device.ggml_name is None}
    unnamed_kinds -= {DeviceKind.CUDA, DeviceKind.RPC}
    if unnamed_kinds:
        names = " and ".join(sorted(PREFIXES[kind] for kind in unnamed_kinds))
        sentences.append(
            f"{names} devices are numbered in the plan's order; compare with `llama-server --list-devices`."
        )
    return tuple(sentences)
