"""The dry run's child process: `python -m vram_llm.llama.dryrun.worker`, questions in, answers out.

llama.cpp aborts on what it does not like, so it is asked in a process of its own.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vram_llm.errors import ModelRefused, NotBuilt, VramLLMError
from vram_llm.llama.dryrun.wire import (
    LENGTH,
    DryRunMode,
    DryRunQuestion,
    DryRunReply,
    ProjectorQuestion,
    write,
)
from vram_llm.machine.types import Device
from vram_llm.model.header_reader import read_header
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.types import Context

if TYPE_CHECKING:
    from vram_llm.llama.adapters import LoadedAdapter
    from vram_llm.llama.dryrun.virtual_device import Profile, VirtualDevice


def main() -> None:
    """Send the result of the self-test, then answer questions until there are no more."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print to standard output, which carries the answers
    try:
        from vram_llm.llama import bindings
        from vram_llm.llama.dryrun import buffers, ggml_structs, reservation

        bindings.log_errors_only()
        ggml_structs.check()
        reservation.check()
        buffers.leave_host_memory()
        check()
        write(answers, DryRunReply())
    except VramLLMError as error:
        write(answers, DryRunReply(refusal=str(error), not_built=True))
        return
    while len(head := questions.read(LENGTH.size)) == LENGTH.size:
        data = questions.read(LENGTH.unpack(head)[0])
        try:
            question = msgspec.json.decode(data, type=DryRunQuestion | ProjectorQuestion)
            write(
                answers,
                answer(question) if isinstance(question, DryRunQuestion) else answer_projector(question),
            )
        except VramLLMError as error:
            write(answers, DryRunReply(refusal=str(error), not_built=isinstance(error, NotBuilt)))


def answer(question: DryRunQuestion) -> DryRunReply:
    """Let llama.cpp place the model. Raises ModelRefused, and for real devices BadPlan, WorkerUnreachable."""
    from vram_llm.llama import bindings as b
    from vram_llm.llama.adapters import load_adapters
    from vram_llm.llama.devices import handles
    from vram_llm.llama.params import LOAD_WITHOUT_MMAP, ModelParams

    context = question.context
    virtual = virtual_devices(question) if question.mode is DryRunMode.VIRTUAL else []
    if virtual:
        devices = [each.handle for each in virtual]
    else:
        devices = handles(question.devices, [device.id for device in question.devices])
    params = ModelParams(question.placement, context, devices)
    params.struct.load_mode, params.struct.no_alloc = LOAD_WITHOUT_MMAP, True
    b.forget_lines()
    model = b.C.llama_model_load_from_file(os.fsencode(question.path), params.struct)
    if not model:
        raise ModelRefused(f"llama.cpp refuses the model: {b.last_errors() or 'it gives no reason'}")
    try:
        adapters = load_adapters(model, question.adapters)
        if question.mode is DryRunMode.VIRTUAL:
            return _measured(model, context, devices, virtual, adapters)
        # a real load also reserves one token a sequence, which can be larger where a batch is small
        few = replace(context, n_ubatch=min(context.parallel, context.n_ubatch))
        both = [_measured(model, each, devices, virtual, adapters) for each in (context, few)]
    finally:
        b.C.llama_model_free(model)
    whole, least = ([*reply.devices, reply.host] for reply in both)
    found = [
        replace(use, compute_bytes=max(use.compute_bytes, other.compute_bytes))
        for use, other in zip(whole, least, strict=True)
    ]
    return DryRunReply(devices=found[:-1], host=found[-1])


def answer_projector(question: ProjectorQuestion) -> DryRunReply:
    """Let libmtmd place the projector. Raises ModelRefused, NotBuilt."""
    from vram_llm.llama.dryrun.virtual_device import Profile, VirtualDevice
    from vram_llm.llama.multimodal.projector_memory import memory_use

    handle, device = None, question.device
    if device is not None:
        key = (0, Profile(device.kind, device.alignment_bytes, device.row_padding))
        if key not in _made:
            _made[key] = VirtualDevice(f"{device.kind.name}0", key[1])
        _made[key].expect(weights=False)
        handle = _made[key].handle
    sizes = memory_use(question.path, handle, question.flash_attn)
    on_host = sum(size for each, size in sizes.items() if each != handle)
    on_device = [] if handle is None else [MemoryUse(compute_bytes=sizes.get(handle, 0))]
    return DryRunReply(devices=on_device, host=MemoryUse(compute_bytes=on_host))


def _measured(
    model: int,
    context: Context,
    devices: Sequence[int],
    virtual: "Sequence[VirtualDevice]",
    adapters: "Sequence[LoadedAdapter]",
) -> DryRunReply:
    """Bytes of each device and the host with a context of the model.

    Graphs are reserved only on `virtual` devices: real ones would need the memory for it.
    """
    from vram_llm.llama import bindings as b
    from vram_llm.llama import memory_breakdown
    from vram_llm.llama.adapters import apply_adapters
    from vram_llm.llama.device_samplers import DeviceSamplers
    from vram_llm.llama.dryrun.reservation import reserve
    from vram_llm.llama.params import context_params

    for each in virtual:
        each.expect(weights=False)
    params = context_params(context)
    n_attached = context.parallel if context.backend_sampling else 0
    attached = DeviceSamplers(n_attached, b.C.llama_vocab_n_tokens(b.C.llama_model_get_vocab(model)))
    if n_attached:
        attached.put_into(params)
    ctx = b.C.llama_init_from_model(model, params)
    if not ctx:
        raise ModelRefused(
            f"llama.cpp will not make a context of {context.n_ctx} tokens: "
            f"{b.last_errors() or 'it gives no reason'}"
        )
    apply_adapters(int(ctx), adapters)
    reserved = reserve(model, ctx, context) if virtual or not devices else None
    for each in virtual:
        each.expect(weights=True)
    uses = memory_breakdown.memory_use(int(ctx))
    b.C.llama_free(ctx)
    attached.close()
    found = [uses.get(device, MemoryUse()) for device in (*devices, None)]
    if reserved is None:
        return DryRunReply(devices=found[:-1], host=found[-1])
    found = [
        replace(use, compute_bytes=reserved.compute_bytes[device])
        for use, device in zip(found, (*devices, None), strict=True)
    ]
    return DryRunReply(
        devices=found[:-1],
        host=found[-1],
        graph_splits=reserved.decode_splits,
        prompt_graph_splits=reserved.prompt_splits,
    )


_made: dict[tuple[int, "Profile"], "VirtualDevice"] = {}


def virtual_devices(question: DryRunQuestion) -> "list[VirtualDevice]":
    """A virtual device for each device of the question, made once for each place and profile."""
    from vram_llm.llama.dryrun.virtual_device import VirtualDevice

    found = []
    for index, device in enumerate(question.devices):
        key = (index, _profile(question, device))
        if key not in _made:
            _made[key] = VirtualDevice(f"{device.kind.name}{index}", key[1])
        found.append(_made[key])
    return found


def _profile(question: DryRunQuestion, device: Device) -> "Profile":
    from vram_llm.llama.dryrun.virtual_device import Profile

    rows, has_experts = _shapes(question.path)
    padding = device.row_padding
    caches = {question.context.kv_type_k, question.context.kv_type_v}
    if padding and caches == {"f16"} and not any(row % padding for row in rows):
        padding = 0
    return Profile(device.kind, device.alignment_bytes, padding, has_experts, caches == {"f16"})


@lru_cache
def _shapes(path: str) -> tuple[frozenset[int], bool]:
    """The lengths of a model's quantized rows, and whether it has experts."""
    tensors = read_header(path).tensors
    return frozenset(t.shape[0] for t in tensors if t.type.is_quantized), any(
        len(t.shape) > 2 and t.shape[2] > 1 for t in tensors
    )


def check() -> None:
    """Raise NotBuilt if this llama.cpp gives a wrong answer to a known question."""
    from vram_llm.llama import bindings as b
    from vram_llm.llama.dryrun import selftest

    b.C.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        path = selftest.SHAPE.write(Path(folder) / "known.gguf")
        try:
            result = answer(
                DryRunQuestion(str(path), selftest.context(), selftest.placement(), selftest.DEVICES)
            )
        except ModelRefused as error:
            raise NotBuilt(f"a dry run of a known model fails: {error}") from error
    if result.devices != selftest.ANSWER:
        raise NotBuilt(f"a dry run of a known model gives {result.devices} where {selftest.ANSWER} is right")


if __name__ == "__main__":
    main()
