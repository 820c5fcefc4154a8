"""Memory that a process takes on a device outside llama.cpp's buffers: driver context, BLAS, graphs."""

from vram_llm.machine.types import Device, DeviceKind
from vram_llm.units import MIB

OVERHEAD_BYTES = {
    DeviceKind.CUDA: 512 * MIB,
    DeviceKind.ROCM: 512 * MIB,
    DeviceKind.VULKAN: 256 * MIB,
    DeviceKind.SYCL: 256 * MIB,
    DeviceKind.METAL: 64 * MIB,
    DeviceKind.RPC: 0,  # the worker has opened its own devices before it reports what is free
}
"""Estimates, for devices whose overhead has not been measured."""


def overhead_bytes(device: Device) -> int:
    """Bytes outside llama.cpp's buffers: measured on this device, else from the table."""
    return OVERHEAD_BYTES[device.kind] if device.overhead is None else int(device.overhead.value)
