"""Virtual devices: what they tell llama.cpp of themselves, by kind."""

import ctypes

import pytest

from vram_llm.llama import bindings as b
from vram_llm.llama.dryrun import ggml_structs
from vram_llm.llama.dryrun.backend_rules import batch_size, least_offloaded_batch
from vram_llm.llama.dryrun.virtual_device import Profile, VirtualDevice
from vram_llm.machine.types import DeviceKind

Q8_0, F16, F32 = 8, 1, 0


def device(kind: DeviceKind, alignment: int = 128, row_padding: int = 0) -> VirtualDevice:
    return VirtualDevice(f"{kind.name}0", Profile(kind, alignment, row_padding))


def tensor(ne: tuple[int, ...], stored: int = F32, op: str = "") -> ggml_structs.GgmlTensor:
    """A contiguous tensor of ggml's."""
    made = ggml_structs.GgmlTensor(type=stored, op=ggml_structs.OPS.get(op, 0))
    made.ne[:] = (*ne, 1, 1, 1)[:4]
    block, size = {F32: (1, 4), F16: (1, 2), Q8_0: (32, 34)}[stored]
    made.nb[0] = size
    made.nb[1] = made.ne[0] // block * size
    for i in (2, 3):
        made.nb[i] = made.nb[i - 1] * made.ne[i - 1]
    return made


def attention(
    head_k: int, head_v: int, heads: int, kv_heads: int, stored: int = F16
) -> list[ggml_structs.GgmlTensor]:
    """Flash attention over 512 cells for 8 tokens: the operation, and its inputs, which must stay alive."""
    inputs = [
        tensor((head_k, 8, heads)),
        tensor((head_k, 512, kv_heads), stored),
        tensor((head_v, 512, kv_heads), stored),
        tensor((512, 8), F16),
    ]
    made = tensor((head_v, heads, 8), op="FLASH_ATTN_EXT")
    made.src[:4] = [ctypes.addressof(each) for each in inputs]
    return [made, *inputs]


def supports(made: VirtualDevice, op: ggml_structs.GgmlTensor) -> bool:
    ask = ctypes.CFUNCTYPE(ctypes.c_bool, b.Pointer, b.Pointer)
    raw = ggml_structs.GgmlDevice.from_address(made.handle)
    return bool(ask(raw.iface.supports_op)(made.handle, ctypes.addressof(op)))


def offloads(made: VirtualDevice, op: ggml_structs.GgmlTensor) -> bool:
    ask = ctypes.CFUNCTYPE(ctypes.c_bool, b.Pointer, b.Pointer)
    raw = ggml_structs.GgmlDevice.from_address(made.handle)
    return bool(ask(raw.iface.offload_op)(made.handle, ctypes.addressof(op)))


def allocated(made: VirtualDevice, of: ggml_structs.GgmlTensor) -> int:
    raw = ggml_structs.BufferType.from_address(b.dev_buffer_type(made.handle))
    ask = ctypes.CFUNCTYPE(ctypes.c_size_t, b.Pointer, b.Pointer)
    return int(ask(raw.iface.get_alloc_size)(b.dev_buffer_type(made.handle), ctypes.addressof(of)))


def test_the_structs_are_this_librarys() -> None:
    ggml_structs.check()


@pytest.mark.parametrize("kind", DeviceKind)
def test_it_answers_as_a_device_of_its_kind(kind: DeviceKind) -> None:
    made = device(kind, alignment=64)
    props = b.props_of(made.handle)
    assert (props.caps.async_, props.caps.events, props.caps.mmap_support) == (True, True, True)
    assert props.caps.host_buffer == (kind not in (DeviceKind.RPC, DeviceKind.METAL))
    assert props.caps.buffer_from_host_ptr == (kind is DeviceKind.METAL)
    assert b.buft_alignment(b.dev_buffer_type(made.handle)) == 64
    assert b.buft_device(b.dev_buffer_type(made.handle)) == made.handle
    assert not b.buft_is_host(b.dev_buffer_type(made.handle))


def test_quantised_rows_are_filled_up() -> None:
    made = device(DeviceKind.CUDA, row_padding=512)
    assert allocated(made, tensor((768, 10), Q8_0)) == 768 // 32 * 34 * 10 + 256 // 32 * 34
    assert allocated(made, tensor((1024, 10), Q8_0)) == 1024 // 32 * 34 * 10
    assert allocated(made, tensor((768, 10), F16)) == 768 * 2 * 10


def test_cuda_needs_room_for_a_quantised_cache_as_f16() -> None:
    made = device(DeviceKind.CUDA)
    op, *inputs = attention(128, 128, 8, 2, Q8_0)
    result, cache = 128 * 8 * 8 * 4, 128 * 512 * 2 * 2
    assert result + 2 * cache <= allocated(made, op) <= result + 2 * (cache + 128)
    op, *inputs = attention(128, 128, 8, 2, F16)
    assert allocated(made, op) == result
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
def test_which_heads_have_a_kernel(heads: tuple[int, int, int, int], on_cuda: bool) -> None:
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
def test_it_takes_over_operations_of_large_batches(op: str, shape: tuple[int, ...], n_rows: int) -> None:
    made = tensor(shape, op=op)
    assert batch_size(made) == n_rows
    assert offloads(device(DeviceKind.CUDA), made) == (n_rows >= 32)
    assert offloads(device(DeviceKind.METAL), made) == op.startswith("MUL_MAT")
    assert not ggml_structs.GgmlDevice.from_address(device(DeviceKind.RPC).handle).iface.offload_op


def test_the_least_of_these_batches_is_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("64", 64), ("0", 0), ("few", 0), ("8 rows", 8)):
        monkeypatch.setenv("GGML_OP_OFFLOAD_MIN_BATCH", text)
        assert least_offloaded_batch() == expected
    monkeypatch.delenv("GGML_OP_OFFLOAD_MIN_BATCH")
    assert least_offloaded_batch() == 32
