"""The child process of dry runs: `python -m vram_llm.llama.dryrun.worker` reads requests and writes replies.

llama.cpp calls abort() on some models and placements, so it runs in a process of its own.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from vram_llm.errors import ModelRefused, NotBuilt, VramLLMError
from vram_llm.llama.dryrun.wire import (
    LENGTH,
    DryRunMode,
    DryRunReply,
    DryRunRequest,
    HeadRequest,
    ProjectorRequest,
    write,
)
from vram_llm.machine.types import Device
from vram_llm.model.header_reader import read_header
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.mtp import head_context, hidden_bytes
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import Context

if TYPE_CHECKING:
    from vram_llm.llama.adapters import LoadedAdapter
    from vram_llm.llama.dryrun.virtual_device import VirtualDevice, VirtualDeviceConfig


def main() -> None:
    """Write the result of the self-test, then a reply to each request until standard input ends."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to standard output, which carries the replies
    try:
        from vram_llm.llama import bindings
        from vram_llm.llama.dryrun import buffers, ggml_structs, reservation

        bindings.log_errors_only()
        ggml_structs.check()
        reservation.check()
        buffers.skip_clearing_host_buffers()
        self_test()
        write(replies, DryRunReply())
    except VramLLMError as error:
        write(replies, DryRunReply(refusal=str(error), not_built=True))
        return
    while len(head := requests.read(LENGTH.size)) == LENGTH.size:
        data = requests.read(LENGTH.unpack(head)[0])
        try:
            request = msgspec.json.decode(data, type=DryRunRequest | ProjectorRequest | HeadRequest)
            if isinstance(request, DryRunRequest):
                reply = measure_placement(request)
            elif isinstance(request, HeadRequest):
                from vram_llm.llama.dryrun.head_question import ask_for_head

                ask_for_head(request)
                reply = DryRunReply()
            else:
                reply = measure_projector(request)
        except VramLLMError as error:
            reply = DryRunReply(refusal=str(error), not_built=isinstance(error, NotBuilt))
        write(replies, reply)


def measure_placement(request: DryRunRequest) -> DryRunReply:
    """The bytes of a placement, by llama.cpp.

    Raises ModelRefused if llama.cpp refuses it; for real devices also BadPlan and WorkerUnreachable.
    """
    from vram_llm.llama import bindings as b
    from vram_llm.llama.adapters import load_adapters
    from vram_llm.llama.params import LOAD_WITHOUT_MMAP, ModelParams

    context = request.context
    virtual = virtual_devices(request) if request.mode is DryRunMode.VIRTUAL else []
    if virtual:
        devices = [device.handle for device in virtual]
    else:
        from vram_llm.llama.devices import handles

        devices = handles(request.devices, [device.id for device in request.devices])
    params = ModelParams(request.placement, context, devices, kv_overrides=request.kv_overrides)
    params.struct.load_mode, params.struct.no_alloc = LOAD_WITHOUT_MMAP, True
    b.forget_lines()
    model = b.C.llama_model_load_from_file(os.fsencode(request.path), params.struct)
    if not model:
        raise ModelRefused(f"llama.cpp refuses the model: {b.last_errors() or 'it gives no reason'}")
    try:
        adapters = load_adapters(model, request.adapters)
        if request.placement.split_mode is SplitMode.TENSOR:
            return _measure_tensor_split(model, context, virtual)
        if request.mode is DryRunMode.VIRTUAL:
            return _measure_context(model, context, devices, virtual, adapters)
        # a real load also reserves a graph of one token for each sequence, which may need larger buffers
        decode = replace(context, n_ubatch=min(context.parallel, context.n_ubatch))
        prompt_reply, decode_reply = (
            _measure_context(model, measured, devices, virtual, adapters) for measured in (context, decode)
        )
    finally:
        b.C.llama_model_free(model)
    prompt_uses, decode_uses = ([*reply.devices, reply.host] for reply in (prompt_reply, decode_reply))
    *on_devices, on_host = (
        replace(use, compute_bytes=max(use.compute_bytes, decode_use.compute_bytes))
        for use, decode_use in zip(prompt_uses, decode_uses, strict=True)
    )
    return DryRunReply(devices=on_devices, host=on_host)


def measure_projector(request: ProjectorRequest) -> DryRunReply:
    """The bytes of a projector, by libmtmd. Raises ModelRefused, NotBuilt."""
    from vram_llm.llama.dryrun.virtual_device import VirtualDeviceConfig
    from vram_llm.llama.multimodal.projector_memory import memory_use

    handle, device = None, request.device
    if device is not None:
        config = VirtualDeviceConfig(device.kind, device.alignment_bytes, device.row_padding)
        virtual = _virtual_device(0, config)
        virtual.set_query(weights=False)
        handle = virtual.handle
    sizes = memory_use(request.path, handle, request.flash_attn)
    host_bytes = sum(n_bytes for owner, n_bytes in sizes.items() if owner != handle)
    on_device = [] if handle is None else [MemoryUse(compute_bytes=sizes.get(handle, 0))]
    return DryRunReply(devices=on_device, host=MemoryUse(compute_bytes=host_bytes))


def _measure_context(
    model: int,
    context: Context,
    devices: Sequence[int],
    virtual: "Sequence[VirtualDevice]",
    adapters: "Sequence[LoadedAdapter]",
) -> DryRunReply:
    """The bytes of each device and of the host, for `model` and a context of it.

    Graphs are reserved on `virtual` devices alone: on real ones they would take memory.
    """
    from vram_llm.llama import bindings as b
    from vram_llm.llama import memory_breakdown
    from vram_llm.llama.adapters import apply_adapters
    from vram_llm.llama.device_samplers import DeviceSamplers
    from vram_llm.llama.dryrun.reservation import reserve_graphs
    from vram_llm.llama.mtp_head import context_use
    from vram_llm.llama.params import context_params

    for device in virtual:
        device.set_query(weights=False)
    params = context_params(context)
    n_samplers = context.parallel if context.backend_sampling else 0
    samplers = DeviceSamplers(n_samplers, b.C.llama_vocab_n_tokens(b.C.llama_model_get_vocab(model)))
    if n_samplers:
        samplers.put_into(params)
    ctx = _made_context(model, context, params)
    apply_adapters(int(ctx), adapters)
    head = _with_head(model, int(ctx), context) if context.n_mtp else None
    reservation = reserve_graphs(model, ctx, context) if virtual or not devices else None
    if head is not None and reservation is not None:
        reservation = reservation.with_head(reserve_graphs(model, head, head_context(context)))
    for device in virtual:
        device.set_query(weights=True)
    uses = memory_breakdown.memory_use(int(ctx))
    if head is not None:
        _add_uses(uses, context_use(head))
        b.C.llama_free(head)
    hidden = MemoryUse(compute_bytes=hidden_bytes(context, b.C.llama_model_n_embd_out(model)))
    b.C.llama_free(ctx)
    samplers.close()
    *on_devices, on_host = (uses.get(owner, MemoryUse()) for owner in (*devices, None))
    if reservation is None:
        return DryRunReply(devices=on_devices, host=on_host + hidden)
    compute_bytes = reservation.compute_bytes
    return DryRunReply(
        devices=[
            replace(use, compute_bytes=compute_bytes[owner])
            for use, owner in zip(on_devices, devices, strict=True)
        ],
        host=replace(on_host, compute_bytes=compute_bytes[None]) + hidden,
        graph_splits=reservation.decode_splits,
        prompt_graph_splits=reservation.prompt_splits,
    )


def _made_context(model: int, context: Context, params: Any) -> int:
    """A new context of `model`. Raises ModelRefused."""
    from vram_llm.llama import bindings as b

    ctx = b.C.llama_init_from_model(model, params)
    if not ctx:
        raise ModelRefused(
            f"llama.cpp will not make a context of {context.n_ctx} tokens: "
            f"{b.last_errors() or 'it gives no reason'}"
        )
    return int(ctx)


def _measure_tensor_split(model: int, context: Context, virtual: "Sequence[VirtualDevice]") -> DryRunReply:
    """The bytes of devices that share the tensors of `model`, and of the host. Raises ModelRefused."""
    from vram_llm.llama import bindings as b
    from vram_llm.llama import memory_breakdown
    from vram_llm.llama.dryrun.reservation import reserve_graphs
    from vram_llm.llama.dryrun.tensor_shares import TensorShares
    from vram_llm.llama.params import context_params

    for device in virtual:
        device.set_query(weights=False)
    before = [device.allocated_bytes for device in virtual]
    ctx = _made_context(model, context, context_params(context))
    # without memory for weights and KV cache, llama.cpp allocates recurrent states alone
    states_bytes = [device.allocated_bytes - was for device, was in zip(virtual, before, strict=True)]
    reservation = reserve_graphs(model, ctx, context)
    shares = TensorShares(model, virtual)
    virtual[0].watch(shares.count)  # the meta device queries each device for each whole tensor
    uses = memory_breakdown.memory_use(ctx)
    virtual[0].watch(None)
    b.C.llama_free(ctx)
    compute_bytes = dict(reservation.compute_bytes)
    host = replace(uses.get(None, MemoryUse()), compute_bytes=compute_bytes.pop(None))
    return DryRunReply(
        devices=shares.uses(sum(compute_bytes.values()), reservation.n_tokens, states_bytes),
        host=host,
        graph_splits=reservation.decode_splits,
        prompt_graph_splits=reservation.prompt_splits,
    )


def _with_head(model: int, ctx: int, context: Context) -> int:
    """A context for the MTP head of `model`, whose own context `ctx` then gives hidden states."""
    from vram_llm.llama.mtp_head import give_hidden_states, make_context

    give_hidden_states(ctx, of_all_rows=True)
    return make_context(model, context)


def _add_uses(uses: dict[int | None, MemoryUse], more: dict[int | None, MemoryUse]) -> None:
    for owner, use in more.items():
        uses[owner] = uses.get(owner, MemoryUse()) + use


_virtual_devices: dict[tuple[int, "VirtualDeviceConfig"], "VirtualDevice"] = {}


def virtual_devices(request: DryRunRequest) -> "list[VirtualDevice]":
    """A virtual device for each device of the request. Requests of equal devices get the same ones."""
    return [
        _virtual_device(index, _virtual_device_config(request, device))
        for index, device in enumerate(request.devices)
    ]


def _virtual_device(index: int, config: "VirtualDeviceConfig") -> "VirtualDevice":
    """The virtual device number `index` with this configuration, made at the first call."""
    from vram_llm.llama.dryrun.virtual_device import VirtualDevice

    if (index, config) not in _virtual_devices:
        _virtual_devices[index, config] = VirtualDevice(f"{config.kind.name}{index}", config)
    return _virtual_devices[index, config]


def _virtual_device_config(request: DryRunRequest, device: Device) -> "VirtualDeviceConfig":
    from vram_llm.llama.dryrun.virtual_device import VirtualDeviceConfig

    row_lengths, has_experts = _row_lengths_and_experts(request.path)
    row_padding = device.row_padding
    f16_cache = {request.context.kv_type_k, request.context.kv_type_v} == {"f16"}
    if row_padding and f16_cache and not any(length % row_padding for length in row_lengths):
        row_padding = 0
    return VirtualDeviceConfig(device.kind, device.alignment_bytes, row_padding, has_experts, f16_cache)


@lru_cache
def _row_lengths_and_experts(path: str) -> tuple[frozenset[int], bool]:
    """The lengths of a model's quantized rows, in elements, and whether it has experts."""
    tensors = read_header(path).tensors
    row_lengths = frozenset(tensor.shape[0] for tensor in tensors if tensor.type.is_quantized)
    return row_lengths, any(len(tensor.shape) > 2 and tensor.shape[2] > 1 for tensor in tensors)


def self_test() -> None:
    """Raise NotBuilt if this llama.cpp gives wrong sizes for the model of selftest.py, or refuses it."""
    from vram_llm.llama import bindings as b
    from vram_llm.llama.dryrun import selftest

    b.C.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        path = selftest.SHAPE.write_sparse(Path(folder) / "known.gguf")
        request = DryRunRequest(str(path), selftest.context(), selftest.placement(), selftest.DEVICES)
        try:
            measured = measure_placement(request).devices
        except ModelRefused as error:
            raise NotBuilt(f"a dry run of a known model fails: {error}") from error
    if measured != selftest.EXPECTED:
        raise NotBuilt(f"a dry run of a known model gives {measured} where {selftest.EXPECTED} is right")


if __name__ == "__main__":
    main()
