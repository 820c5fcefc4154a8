"""Virtual devices: the capabilities and the sizes that they report to llama.cpp, by kind."""

import ctypes

import pytest

from vram_llm.llama import bindings as b
from vram_llm.llama.dryrun import ggml_structs
from vram_llm.llama.dryrun.backend_rules import batch_size, min_offloaded_batch
from vram_llm.llama.dryrun.virtual_device import VirtualDevice, VirtualDeviceConfig
from vram_llm.machine.types import DeviceKind

Q8_0, F16, F32 = 8, 1, 0


def device(kind: DeviceKind, alignment: int = 128, row_padding: int = 0) -> VirtualDevice:
    return VirtualDevice(f"{kind.name}0", VirtualDeviceConfig(kind, alignment, row_padding))


def tensor(ne: tuple[int, ...], tensor_type: int = F32, op: str = "") -> ggml_structs.GgmlTensor:
    """A contiguous ggml tensor."""
    new = ggml_structs.GgmlTensor(type=tensor_type, op=ggml_structs.OPS.get(op, 0))
    new.ne[:] = (*ne, 1, 1, 1)[:4]
    block, n_bytes = {F32: (1, 4), F16: (1, 2), Q8_0: (32, 34)}[tensor_type]
    new.nb[0] = n_bytes
    new.nb[1] = new.ne[0] // block * n_bytes
    for i in (2, 3):
        new.nb[i] = new.nb[i - 1] * new.ne[i - 1]
    return new


def attention(
    head_k: int, head_v: int, heads: int, kv_heads: int, kv_type: int = F16
) -> list[ggml_structs.GgmlTensor]:
    """Flash attention over 512 cells for 8 tokens: the operation, and its inputs, which must stay alive."""
    inputs = [
        tensor((head_k, 8, heads)),
        tensor((head_k, 512, kv_heads), kv_type),
        tensor((head_v, 512, kv_heads), kv_type),
        tensor((512, 8), F16),
    ]
    op = tensor((head_v, heads, 8), op="FLASH_ATTN_EXT")
    op.src[:4] = [ctypes.addressof(input_tensor) for input_tensor in inputs]
    return [op, *inputs]


def supports(device: VirtualDevice, op: ggml_structs.GgmlTensor) -> bool:
    function = ctypes.CFUNCTYPE(ctypes.c_bool, b.Pointer, b.Pointer)
    ggml_device = ggml_structs.GgmlDevice.from_address(device.handle)
    return bool(function(ggml_device.iface.supports_op)(device.handle, ctypes.addressof(op)))


def offloads(device: VirtualDevice, op: ggml_structs.GgmlTensor) -> bool:
    function = ctypes.CFUNCTYPE(ctypes.c_bool, b.Pointer, b.Pointer)
    ggml_device = ggml_structs.GgmlDevice.from_address(device.handle)
    return bool(function(ggml_device.iface.offload_op)(device.handle, ctypes.addressof(op)))


def allocated_bytes(device: VirtualDevice, tensor: ggml_structs.GgmlTensor) -> int:
    buffer_type = ggml_structs.BufferType.from_address(b.dev_buffer_type(device.handle))
    function = ctypes.CFUNCTYPE(ctypes.c_size_t, b.Pointer, b.Pointer)
    get_alloc_size = function(buffer_type.iface.get_alloc_size)
    return int(get_alloc_size(b.dev_buffer_type(device.handle), ctypes.addressof(tensor)))


def test_the_structs_are_those_of_the_library() -> None:
    ggml_structs.check()


@pytest.mark.parametrize("kind", DeviceKind)
def test_a_virtual_device_has_the_properties_of_its_kind(kind: DeviceKind) -> None:
    virtual = device(kind, alignment=64)
    props = b.props_of(virtual.handle)
    assert (props.caps.async_, props.caps.events, props.caps.mmap_support) == (True, True, True)
    assert props.caps.host_buffer == (kind not in (DeviceKind.RPC, DeviceKind.METAL))
    assert props.caps.buffer_from_host_ptr == (kind is DeviceKind.METAL)
    assert b.buft_alignment(b.dev_buffer_type(virtual.handle)) == 64
    assert b.buft_device(b.dev_buffer_type(virtual.handle)) == virtual.handle
    assert not b.buft_is_host(b.dev_buffer_type(virtual.handle))


def test_quantised_rows_are_padded() -> None:
    virtual = device(DeviceKind.CUDA, row_padding=512)
    assert allocated_bytes(virtual, tensor((768, 10), Q8_0)) == 768 // 32 * 34 * 10 + 256 // 32 * 34
    assert allocated_bytes(virtual, tensor((1024, 10), Q8_0)) == 1024 // 32 * 34 * 10
    assert allocated_bytes(virtual, tensor((768, 10), F16)) == 768 * 2 * 10


def test_cuda_copies_a_quantised_cache_to_f16() -> None:
    virtual = device(DeviceKind.CUDA)
    op, *inputs = attention(128, 128, 8, 2, Q8_0)
    result_bytes, cache_bytes = 128 * 8 * 8 * 4, 128 * 512 * 2 * 2
    least_bytes = result_bytes + 2 * cache_bytes
    assert least_bytes <= allocated_bytes(virtual, op) <= least_bytes + 2 * 128
    op, *inputs = attention(128, 128, 8, 2, F16)
    assert allocated_bytes(virtual, op) == result_bytes
    assert len(inputs) == 4


@pytest.mark.parametrize(
    ("heads", "on_cuda"),
    [
        ((128, 128, 8, 2), True),
        ((64, 64, 8, 8), True),
        ((32, 32, 8, 2), False),
        ((576, 512, 128, 1), True),
        ((576, 512, 1, 1), False),
        ((192, 128, 16, 2), True),
        ((192, 128, 12, 2), False),
        ((128, 64, 8, 2), False),
    ],
)
def test_head_sizes_that_have_a_kernel(heads: tuple[int, int, int, int], on_cuda: bool) -> None:
    op, *inputs = attention(*heads)
    assert supports(device(DeviceKind.CUDA), op) == on_cuda
    assert supports(device(DeviceKind.RPC), op)
    assert len(inputs) == 4


@pytest.mark.parametrize(
    ("op", "shape", "n_rows"),
    [
        ("MUL_MAT", (64, 40), 40),
        ("MUL_MAT_ID", (64, 8, 40), 40),
        ("MUL", (64, 4, 10), 40),
        ("GET_ROWS", (64, 40), 0),
    ],
)
def test_operations_of_large_batches_are_offloaded(op: str, shape: tuple[int, ...], n_rows: int) -> None:
    result = tensor(shape, op=op)
    assert batch_size(result) == n_rows
    assert offloads(device(DeviceKind.CUDA), result) == (n_rows >= 32)
    assert offloads(device(DeviceKind.METAL), result) == op.startswith("MUL_MAT")
    assert not ggml_structs.GgmlDevice.from_address(device(DeviceKind.RPC).handle).iface.offload_op


def test_an_environment_variable_sets_the_smallest_offloaded_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("64", 64), ("0", 0), ("few", 0), ("8 rows", 8)):
        monkeypatch.setenv("GGML_OP_OFFLOAD_MIN_BATCH", text)
        assert min_offloaded_batch() == expected
    monkeypatch.delenv("GGML_OP_OFFLOAD_MIN_BATCH")
    assert min_offloaded_batch() == 32
